//! The whole state as a stream: a header, the objects in the order of their names, the remembered replies.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use byname_api::request::RequestId;
use byname_api::span::Timestamp;

use super::{FORMAT, StoredError, v1, v2, v3};
use crate::Registry;
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
    for node in tree.iter() {
        put(&mut out, &v3::Object::from(&*node))?;
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
    for _ in 0..header.objects {
        let object: v3::Object = match format {
            1 => v2::Object::from(get::<v1::Object>(&mut from)?).into(),
            2 => get::<v2::Object>(&mut from)?.into(),
            _ => get(&mut from)?,
        };
        tree.put(Node::try_from(object)?);
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
    Ok(Registry { tree, sessions })
}

fn put<T: Serialize>(out: &mut impl Write, record: &T) -> io::Result<()> {
    let bytes = postcard::to_stdvec(record).map_err(io::Error::other)?;
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(&bytes)
}

fn get<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, StoredError> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(cut)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_RECORD {
        return Err(StoredError::Malformed(format!("a record claims {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).map_err(cut)?;
    Ok(postcard::from_bytes(&bytes)?)
}

fn cut(error: io::Error) -> StoredError {
    StoredError::Malformed(format!("it ends too early ({error})"))
}
