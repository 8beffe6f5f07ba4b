//! Requests as they come from the wire (`io/xs_wire.h`).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::{DomId, Pfn, Port};
use ring_proto::path::decimal;
use ring_proto::store::{Header, MessageType, PAYLOAD_MAX, StoreError, strings};

use super::path::Path;
use super::perms::Perms;
use super::{Context, Store, privileged};

/// What a request asks of the program around the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Serve a domain's ring: its frame, as the domain numbers it or as the machine does, and the domain's port.
    Introduce(DomId, Pfn, Port),
    /// Stop serving a domain.
    Release(DomId),
}

/// The payload of a reply, or why there is none.
type Reply = Result<Vec<u8>, StoreError>;

/// The reply of an operation that returns nothing.
fn ok(_: ()) -> Vec<u8> {
    b"OK\0".to_vec()
}

impl Store {
    /// Carries out one request of `domain` and queues the reply, then the events that follow from it.
    ///
    /// The caller has read the whole message; one longer than `PAYLOAD_MAX` never gets here, because it ends the
    /// connection. A request of a domain that was not introduced is ignored.
    pub fn request(&mut self, domain: DomId, header: &Header, payload: &[u8]) -> Option<Act> {
        let context = Context { domain, transaction: header.tx_id };
        // The reply goes before the events of the same request, which are queued as they happen.
        let mark = self.clients.get(&domain)?.len();
        let mut act = None;
        let result = self.carry_out(context, header.kind, payload, &mut act);
        let (kind, payload) = match result {
            Ok(payload) if payload.len() <= PAYLOAD_MAX => (header.kind, payload),
            Ok(_) => (MessageType::ERROR, b"E2BIG\0".to_vec()),
            Err(error) => (MessageType::ERROR, format!("{error}\0").into_bytes()),
        };
        if let Some(client) = self.clients.get_mut(&domain) {
            client.insert(mark, kind, header.req_id, header.tx_id, payload.into());
            self.ready.insert(domain);
        }
        act
    }

    fn carry_out(&mut self, context: Context, kind: MessageType, payload: &[u8], act: &mut Option<Act>) -> Reply {
        let path = || Path::parse(context.domain, only(payload)?);
        match kind {
            MessageType::READ => self.read_node(context, &path()?).map(|value| value.to_vec()),
            MessageType::DIRECTORY => self.directory(context, &path()?).map(|(names, _)| names.into_bytes()),
            MessageType::DIRECTORY_PART => {
                let [path, offset] = words(payload)?;
                let offset = number(offset)?;
                self.directory_part(context, &Path::parse(context.domain, path)?, offset).map(String::into_bytes)
            }
            MessageType::WRITE => {
                let end = payload.iter().position(|byte| *byte == 0).ok_or(StoreError::Einval)?;
                let (path, value) = payload.split_at(end);
                let value = value.get(1..).unwrap_or_default();
                self.write_node(context, &Path::parse(context.domain, path)?, value).map(ok)
            }
            MessageType::MKDIR => self.make_directory(context, &path()?).map(ok),
            MessageType::RM => self.remove_node(context, &path()?).map(ok),
            MessageType::GET_PERMS => self.get_perms(context, &path()?).map(|perms| perms.to_wire().into_bytes()),
            MessageType::SET_PERMS => {
                let mut words = terminated(payload)?;
                let path = Path::parse(context.domain, words.next().ok_or(StoreError::Einval)?)?;
                self.change_perms(context, &path, Perms::parse(words)?).map(ok)
            }
            MessageType::WATCH => {
                let [path, token] = words(payload)?;
                self.add_watch(context, path, token).map(ok)
            }
            MessageType::UNWATCH => {
                let [path, token] = words(payload)?;
                self.watches.remove(context.domain, path, token).map(ok)
            }
            MessageType::TRANSACTION_START => self.start_transaction(context).map(|id| format!("{id}\0").into_bytes()),
            MessageType::TRANSACTION_END => {
                let commit = match only(payload)? {
                    b"T" => true,
                    b"F" => false,
                    _ => return Err(StoreError::Einval),
                };
                self.end_transaction(context, commit).map(ok)
            }
            MessageType::RESET_WATCHES => {
                self.reset(context.domain);
                Ok(ok(()))
            }
            kind => self.about_domains(context.domain, kind, payload, act),
        }
    }

    /// The requests that concern domains and not nodes.
    fn about_domains(&mut self, by: DomId, kind: MessageType, payload: &[u8], act: &mut Option<Act>) -> Reply {
        let domain = |word| number(word).map(DomId);
        match kind {
            MessageType::GET_DOMAIN_PATH => Ok(format!("{}\0", Path::of_domain(domain(only(payload)?)?)).into_bytes()),
            MessageType::IS_DOMAIN_INTRODUCED => {
                let known = self.is_introduced(domain(only(payload)?)?);
                Ok(if known { b"T\0".to_vec() } else { b"F\0".to_vec() })
            }
            MessageType::INTRODUCE | MessageType::RELEASE | MessageType::RESUME | MessageType::CONTROL
                if !privileged(by) =>
            {
                Err(StoreError::Eacces)
            }
            // Nobody acts for another domain here: no device models.
            MessageType::SET_TARGET => Err(StoreError::Eacces),
            MessageType::INTRODUCE => {
                let [id, frame, port] = words(payload)?;
                let (id, frame, port) = (domain(id)?, number(frame)?, number(port)?);
                self.introduce(id);
                *act = Some(Act::Introduce(id, Pfn(frame), Port(port)));
                Ok(ok(()))
            }
            MessageType::RELEASE => {
                let id = domain(only(payload)?)?;
                if privileged(id) || !self.is_introduced(id) {
                    return Err(StoreError::Enoent);
                }
                self.release(id);
                *act = Some(Act::Release(id));
                Ok(ok(()))
            }
            MessageType::RESUME => {
                if self.is_introduced(domain(only(payload)?)?) {
                    Ok(ok(()))
                } else {
                    Err(StoreError::Enoent)
                }
            }
            MessageType::CONTROL => match strings(payload).next() {
                Some(b"help") => Ok(b"commands: help quota\0".to_vec()),
                Some(b"quota") => Ok(format!("{:?}\0", self.quotas).into_bytes()),
                _ => Err(StoreError::Einval),
            },
            _ => Err(StoreError::Enosys),
        }
    }
}

/// The strings of a payload, the last of which must be terminated.
fn terminated(payload: &[u8]) -> Result<impl Iterator<Item = &[u8]>, StoreError> {
    if payload.ends_with(b"\0") { Ok(strings(payload)) } else { Err(StoreError::Einval) }
}

/// Exactly `N` strings.
fn words<const N: usize>(payload: &[u8]) -> Result<[&[u8]; N], StoreError> {
    let mut found = terminated(payload)?;
    let mut words = [&[][..]; N];
    for word in &mut words {
        *word = found.next().ok_or(StoreError::Einval)?;
    }
    if found.next().is_none() { Ok(words) } else { Err(StoreError::Einval) }
}

fn only(payload: &[u8]) -> Result<&[u8], StoreError> {
    words::<1>(payload).map(|[word]| word)
}

fn number<T: core::str::FromStr>(word: &[u8]) -> Result<T, StoreError> {
    str::from_utf8(word).ok().and_then(decimal).ok_or(StoreError::Einval)
}
