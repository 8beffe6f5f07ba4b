//! What every backend does: notice its devices come and go.

use crate::runtime::Context;
use crate::store::{Error, Store};
use abi::DomId;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};
use ring_proto::path::{BackDir, Class, Device, decimal};

/// Something that happens once, and one task that waits for it.
#[derive(Clone, Debug, Default)]
pub struct Signal(Rc<(Cell<bool>, RefCell<Option<Waker>>)>);

impl Signal {
    /// It happens.
    pub fn raise(&self) {
        self.0.0.set(true);
        self.0.1.take().into_iter().for_each(Waker::wake);
    }

    /// Whether it has happened.
    pub fn is_raised(&self) -> bool {
        self.0.0.get()
    }

    /// Waits for it.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.is_raised() {
                return Poll::Ready(());
            }
            self.0.1.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Runs `serve` as a task for every device of `class` that the toolstack makes for this domain; the signal is raised
/// when the device is removed. Returns only if the store fails.
pub async fn serve_devices<F: Future<Output = ()> + 'static>(
    context: Context,
    store: Store,
    class: Class,
    serve: impl Fn(Device, Signal) -> F,
) -> Result<(), Error> {
    let own = DomId(store.read_number("domid").await?);
    let root = format!("backend/{}", class.name());
    let mut watch = store.watch(&root).await?;
    let mut known = Known { context, serve, devices: BTreeMap::new() };
    loop {
        let path = watch.changed().await?;
        match Device::from_backend_path(own, &path) {
            // Changes below a device's directory are mostly this domain's own.
            Some(device) if known.has(&device) && path.ends_with(|c: char| !c.is_ascii_digit()) => {}
            Some(device) => known.check(store, device).await?,
            // The whole class, or a whole guest.
            None => {
                for device in known.all() {
                    known.check(store, device).await?;
                }
                for device in list(store, own, class).await? {
                    known.check(store, device).await?;
                }
            }
        }
    }
}

/// The devices that are being served, by frontend and handle.
struct Known<S> {
    context: Context,
    serve: S,
    devices: BTreeMap<(u16, u32), (Device, Signal)>,
}

impl<F: Future<Output = ()> + 'static, S: Fn(Device, Signal) -> F> Known<S> {
    fn has(&self, device: &Device) -> bool {
        self.devices.contains_key(&(device.front.0, device.handle))
    }

    fn all(&self) -> alloc::vec::Vec<Device> {
        self.devices.values().map(|(device, _)| *device).collect()
    }

    /// Starts or ends serving a device, as its directory is there or not.
    async fn check(&mut self, store: Store, device: Device) -> Result<(), Error> {
        let state = store.read_if_there(&format!("{}/state", BackDir(device))).await?;
        let key = (device.front.0, device.handle);
        match (state, self.devices.contains_key(&key)) {
            (Some(_), false) => {
                let gone = Signal::default();
                self.context.spawn((self.serve)(device, gone.clone()));
                self.devices.insert(key, (device, gone));
            }
            (None, true) => {
                if let Some((_, gone)) = self.devices.remove(&key) {
                    gone.raise();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The devices of `class` in the store.
async fn list(store: Store, back: DomId, class: Class) -> Result<alloc::vec::Vec<Device>, Error> {
    let mut found = alloc::vec::Vec::new();
    let root = format!("backend/{}", class.name());
    for front in names(store, &root).await? {
        for handle in names(store, &format!("{root}/{front}")).await? {
            if let (Some(front), Some(handle)) = (decimal(&front), decimal(&handle)) {
                found.push(Device { class, back, front: DomId(front), handle });
            }
        }
    }
    Ok(found)
}

/// The children of a node; none if it is not there.
async fn names(store: Store, path: &str) -> Result<alloc::vec::Vec<alloc::string::String>, Error> {
    match store.list(path).await {
        Err(Error::Store(_)) => Ok(alloc::vec::Vec::new()),
        names => names,
    }
}
