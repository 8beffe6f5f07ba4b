//! The three shapes everything in this crate has.

/// An open enum: a transparent newtype over an integer with named constants. Any value may
/// arrive on the wire; `Debug` prints the name of a known one and the number of another.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident($repr:ty) {
            $( $(#[$cmeta:meta])* $cname:ident = $value:expr; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        $vis struct $name(pub $repr);

        impl $name {
            $( $(#[$cmeta])* pub const $cname: Self = Self($value); )*
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $( Self::$cname => f.write_str(stringify!($cname)), )*
                    #[allow(unreachable_patterns, reason = "every value may have a name")]
                    _ => write!(f, "{}({:#x})", stringify!($name), self.0),
                }
            }
        }
    };
}

/// A wire structure: `repr(C)`, plain data, with the derives all of them share.
macro_rules! wire_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(C)]
        $vis struct $name { $($body)* }

        /// All zeros.
        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    };
}

/// Asserts size and field offsets of a structure, as the C compiler lays it out.
macro_rules! layout {
    ($name:ty: $size:expr $(; $($field:ident @ $offset:expr),* $(,)?)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            $( $( assert!(core::mem::offset_of!($name, $field) == $offset); )* )?
        };
    };
}
