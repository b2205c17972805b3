//! The whole state as a stream: a header, the objects in the order of their names, what some have beyond their
//! declarations, the remembered replies, what proves who is who.

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use byname_api::object::ObjectId;
use byname_api::request::RequestId;
use byname_api::span::Timestamp;

use super::packed::Slot;
use super::{FORMAT, StoredError, v1, v2, v3, v4, v5};
use crate::Registry;
use crate::identity::Identity;
use crate::sessions::Sessions;
use crate::tree::{Node, Tree};

const MAGIC: &[u8; 15] = b"byname-snapshot";
/// Nothing in a snapshot is longer: a command of the largest size, with room to spare.
const MAX_RECORD: u32 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Header {
    revision: u64,
    now: u64,
    next_id: u64,
    objects: u64,
    replies: u64,
    floors: u64,
    used: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredReply {
    at: u64,
    session: u128,
    sequence: u64,
    reply: Vec<u8>,
}

/// Writes a state. The caller adds checksums and makes it durable.
pub fn write_snapshot(registry: &Registry, out: &mut dyn Write) -> io::Result<()> {
    let (tree, sessions) = (&registry.tree, &registry.sessions);
    let mut out = io::BufWriter::with_capacity(64 << 10, out);
    out.write_all(MAGIC)?;
    out.write_all(&[FORMAT])?;
    let replies: Vec<StoredReply> = sessions
        .order
        .iter()
        .filter_map(|(at, id)| {
            let reply = sessions.sessions.get(&id.session)?.replies.get(&id.sequence)?;
            Some(StoredReply { at: at.0, session: id.session, sequence: id.sequence, reply: reply.to_vec() })
        })
        .collect();
    let mut floors: Vec<(u128, u64)> =
        sessions.sessions.iter().filter(|(_, s)| s.floor > 0).map(|(id, s)| (*id, s.floor)).collect();
    // Equal states give equal bytes.
    floors.sort_unstable();
    let header = Header {
        revision: tree.revision,
        now: tree.now.0,
        next_id: tree.next_id,
        objects: tree.len() as u64,
        replies: replies.len() as u64,
        floors: floors.len() as u64,
        used: sessions.used.len() as u64,
    };
    put(&mut out, &header)?;
    let mut record = Vec::new();
    for slot in tree.names().from(&[]) {
        record.clear();
        record = slot.write(record);
        put_bytes(&mut out, &record)?;
    }
    put(&mut out, &(tree.whole().len() as u64))?;
    for node in tree.whole() {
        put(&mut out, &v5::More::from(&**node))?;
    }
    for reply in &replies {
        put(&mut out, reply)?;
    }
    for floor in &floors {
        put(&mut out, floor)?;
    }
    for key in &sessions.used {
        put(&mut out, key)?;
    }
    put_identity(&mut out, tree.identity())?;
    put(&mut out, &(tree.hosts.len() as u64))?;
    for (id, host) in &tree.hosts {
        put(&mut out, &v5::Host::of(*id, host))?;
    }
    out.flush()
}

/// Reads a state of any format so far.
pub fn read_snapshot(from: &mut dyn Read) -> Result<Registry, StoredError> {
    let mut from = io::BufReader::with_capacity(64 << 10, from);
    let mut head = [0; MAGIC.len() + 1];
    from.read_exact(&mut head).map_err(cut)?;
    let (magic, format) = (&head[..MAGIC.len()], head[MAGIC.len()]);
    if magic != MAGIC {
        return Err(StoredError::Malformed("it is no snapshot of a byname tree".into()));
    }
    if !(1..=FORMAT).contains(&format) {
        return Err(StoredError::Newer(format));
    }
    let header: Header = get(&mut from)?;
    let mut tree = Tree::default();
    tree.revision = header.revision;
    tree.now = Timestamp(header.now);
    tree.next_id = header.next_id;
    match format {
        1 | 2 => {
            for _ in 0..header.objects {
                let object = match format {
                    1 => v2::Object::from(get::<v1::Object>(&mut from)?),
                    _ => get(&mut from)?,
                };
                let node = Node::try_from(object)?;
                let before = tree.get(&node.name);
                tree.put(before.as_deref(), node);
            }
        }
        _ => read_objects(&mut tree, header.objects, format, &mut from)?,
    }
    let mut sessions = Sessions::default();
    for _ in 0..header.replies {
        let reply: StoredReply = get(&mut from)?;
        let id = RequestId { session: reply.session, sequence: reply.sequence };
        sessions.order.push_back((Timestamp(reply.at), id));
        sessions.sessions.entry(id.session).or_default().replies.insert(id.sequence, reply.reply.into());
    }
    for _ in 0..header.floors {
        let (session, floor): (u128, u64) = get(&mut from)?;
        sessions.sessions.entry(session).or_default().floor = floor;
    }
    for _ in 0..header.used {
        let key = get(&mut from)?;
        sessions.use_up(key);
    }
    if format >= 4 {
        get_identity(tree.identity_mut(), &mut from)?;
    }
    if format >= 5 {
        let hosts: u64 = get(&mut from)?;
        for _ in 0..hosts {
            let (id, host) = get::<v5::Host>(&mut from)?.back();
            tree.hosts.insert(id, host);
        }
    }
    Ok(Registry { tree, sessions })
}

fn read_objects(tree: &mut Tree, objects: u64, format: u8, from: &mut impl Read) -> Result<(), StoredError> {
    let (mut failed, mut record) = (None, Vec::new());
    let slots = (0..objects).map(|_| match get_bytes(from, &mut record) {
        Ok(()) => Slot::read(&record),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let restored = tree.restore(slots);
    if let Some(error) = failed {
        return Err(error);
    }
    restored.ok_or_else(|| StoredError::Malformed("its objects are damaged or not in order".into()))?;
    let more: u64 = get(from)?;
    for _ in 0..more {
        let more = match format {
            3 => v5::More::from(v4::More::from(get::<v3::More>(from)?)),
            4 => v5::More::from(get::<v4::More>(from)?),
            _ => get(from)?,
        };
        let node = tree.by_id(more.id()).ok_or_else(|| {
            StoredError::Malformed(format!("there is more of the object {}, which is not there", more.id()))
        })?;
        let whole = more.add_to(&node)?;
        tree.put_state(&node, whole);
    }
    Ok(())
}

/// Begins with how many records of each kind follow.
fn put_identity(out: &mut impl Write, identity: &Identity) -> io::Result<()> {
    let Identity { credentials, vault, secrets, introductions, invites, revoked, anchors } = identity;
    let counts = v4::Counts {
        credentials: credentials.len() as u64,
        vault: vault.len() as u64,
        secrets: secrets.len() as u64,
        introductions: introductions.len() as u64,
        invites: invites.len() as u64,
        revoked: revoked.len() as u64,
        anchors: anchors.len() as u64,
    };
    put(out, &counts)?;
    for (id, credentials) in credentials {
        put(out, &v4::Credentials::of(*id, credentials))?;
    }
    for (key, sealed) in vault {
        put(out, &(key, &**sealed))?;
    }
    for (id, sealed) in secrets {
        put(out, &(id.0, &**sealed))?;
    }
    for (ticket, end, introduction) in introductions.iter() {
        put(out, &v4::Introduction::of(ticket, end, introduction))?;
    }
    for (secret, end, invite) in invites.iter() {
        put(out, &v4::Invite::of(secret, end, invite))?;
    }
    for (session, end, ()) in revoked.iter() {
        put(out, &(session, end.0))?;
    }
    for (server, anchors) in anchors {
        let anchors: Vec<(u64, [u8; 32])> = anchors.iter().map(|(sequence, hash)| (*sequence, *hash)).collect();
        put(out, &(server, anchors))?;
    }
    Ok(())
}

fn get_identity(identity: &mut Identity, from: &mut impl Read) -> Result<(), StoredError> {
    let counts: v4::Counts = get(from)?;
    for _ in 0..counts.credentials {
        let (id, credentials) = get::<v4::Credentials>(from)?.back();
        identity.credentials.insert(id, Arc::new(credentials));
    }
    for _ in 0..counts.vault {
        let (key, sealed): (String, Vec<u8>) = get(from)?;
        identity.vault.insert(key, sealed.into());
    }
    for _ in 0..counts.secrets {
        let (id, sealed): (u64, String) = get(from)?;
        identity.secrets.insert(ObjectId(id), sealed.into());
    }
    for _ in 0..counts.introductions {
        let (ticket, end, introduction) = get::<v4::Introduction>(from)?.back();
        identity.introductions.insert(ticket, end, Arc::new(introduction));
    }
    for _ in 0..counts.invites {
        let (secret, end, invite) = get::<v4::Invite>(from)?.back()?;
        identity.invites.insert(secret, end, Arc::new(invite));
    }
    for _ in 0..counts.revoked {
        let (session, end): (u64, u64) = get(from)?;
        identity.revoked.insert(session, Timestamp(end), ());
    }
    for _ in 0..counts.anchors {
        let (server, anchors): (u64, Vec<(u64, [u8; 32])>) = get(from)?;
        identity.anchors.insert(server, anchors.into_iter().collect());
    }
    Ok(())
}

fn put<T: Serialize>(out: &mut impl Write, record: &T) -> io::Result<()> {
    put_bytes(out, &postcard::to_stdvec(record).map_err(io::Error::other)?)
}

fn put_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(bytes)
}

fn get<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, StoredError> {
    let mut bytes = Vec::new();
    get_bytes(from, &mut bytes)?;
    Ok(postcard::from_bytes(&bytes)?)
}

fn get_bytes(from: &mut impl Read, bytes: &mut Vec<u8>) -> Result<(), StoredError> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(cut)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_RECORD {
        return Err(StoredError::Malformed(format!("a record claims {length} bytes")));
    }
    bytes.resize(length as usize, 0);
    from.read_exact(bytes).map_err(cut)
}

fn cut(error: io::Error) -> StoredError {
    StoredError::Malformed(format!("it ends too early ({error})"))
}
