//! Error numbers (`errno.h`). A hypercall returns them negated.

open_enum! {
    /// An error number, positive. Zero never means an error.
    pub struct Errno(i32) {
        /// Operation not permitted.
        EPERM = 1;
        /// No such object.
        ENOENT = 2;
        /// No such domain.
        ESRCH = 3;
        /// Interrupted.
        EINTR = 4;
        /// Input or output error.
        EIO = 5;
        /// No such device or address.
        ENXIO = 6;
        /// Argument list too long.
        E2BIG = 7;
        /// Not an executable image.
        ENOEXEC = 8;
        /// Bad handle.
        EBADF = 9;
        /// No child.
        ECHILD = 10;
        /// Try again.
        EAGAIN = 11;
        /// Out of memory.
        ENOMEM = 12;
        /// Access denied.
        EACCES = 13;
        /// Bad address.
        EFAULT = 14;
        /// In use.
        EBUSY = 16;
        /// Exists already.
        EEXIST = 17;
        /// Crosses a boundary.
        EXDEV = 18;
        /// No such device.
        ENODEV = 19;
        /// Not a directory.
        ENOTDIR = 20;
        /// Is a directory.
        EISDIR = 21;
        /// Invalid argument.
        EINVAL = 22;
        /// Table full.
        ENFILE = 23;
        /// Too many open.
        EMFILE = 24;
        /// No space left.
        ENOSPC = 28;
        /// Read-only.
        EROFS = 30;
        /// Too many links.
        EMLINK = 31;
        /// Out of domain.
        EDOM = 33;
        /// Out of range.
        ERANGE = 34;
        /// Would deadlock.
        EDEADLK = 35;
        /// Name too long.
        ENAMETOOLONG = 36;
        /// No locks.
        ENOLCK = 37;
        /// No such call or sub-operation.
        ENOSYS = 38;
        /// Not empty.
        ENOTEMPTY = 39;
        /// No data.
        ENODATA = 61;
        /// The time has passed.
        ETIME = 62;
        /// Bad message.
        EBADMSG = 74;
        /// Overflow.
        EOVERFLOW = 75;
        /// Illegal byte sequence.
        EILSEQ = 84;
        /// Restart the call; never reaches a guest.
        ERESTART = 85;
        /// Not a socket.
        ENOTSOCK = 88;
        /// Message too long.
        EMSGSIZE = 90;
        /// Not supported.
        EOPNOTSUPP = 95;
        /// Address in use.
        EADDRINUSE = 98;
        /// Address not available.
        EADDRNOTAVAIL = 99;
        /// No buffer space.
        ENOBUFS = 105;
        /// Connected already.
        EISCONN = 106;
        /// Not connected.
        ENOTCONN = 107;
        /// Timed out.
        ETIMEDOUT = 110;
        /// Refused.
        ECONNREFUSED = 111;
    }
}

impl Errno {
    /// The value a hypercall returns in `rax`: negative.
    pub const fn code(self) -> i64 {
        -(self.0 as i64)
    }

    /// Reads a hypercall's return value: `Err` for -4095..=-1, else the value.
    pub const fn check(ret: i64) -> Result<u64, Self> {
        if ret < 0 && ret >= -4095 { Err(Self(-ret as i32)) } else { Ok(ret as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn return_values() {
        assert_eq!(Errno::check(-22), Err(Errno::EINVAL));
        assert_eq!(Errno::check(-4096), Ok(-4096i64 as u64));
        assert_eq!(Errno::check(7), Ok(7));
        assert_eq!(Errno::check(Errno::EFAULT.code()), Err(Errno::EFAULT));
    }
}
