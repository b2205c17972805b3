//! `cluster restore` and `cluster stand-alone`: data directories without a running server.

use std::path::Path;

use byname_api::error::{Code, Error};
use byname_cluster::Options;
use byname_identity::seal::ClusterKey;

use super::cannot_start;
use super::files::DataDir;
use super::trust::{NUMBER, Own};
use crate::failure::Outcome;
use crate::screen::{Format, Screen};

/// Makes a data directory from a backup.
pub(crate) async fn restore(screen: &mut Screen, file: &Path, data: &Path, key: &Path) -> Outcome {
    let key = ClusterKey::load(key)?.ok_or_else(|| Error::invalid("key", format!("{} is not there", key.display())))?;
    let backup = byname_node::Backup::read(file).map_err(cannot_start)?;
    let Some(sealed) = &backup.sealed_authority else {
        return Err(
            Error::invalid("file", "the backup is of a server that had no identity yet: start a new one").into()
        );
    };
    // The key is the right one, or nothing in the backup could be opened.
    byname_node::Node::open_authority(&key, sealed)
        .map_err(|_| Error::invalid("key", "it is not the key that the secrets of this backup are sealed with"))?;
    let dir = DataDir::take(data)?;
    if Own::is_there(&dir) {
        let what = format!("{} is the data directory of a server: choose a new one", data.display());
        return Err(Error::new(Code::AlreadyExists, what).field("data").into());
    }
    let options = Options::new(dir.path("log"), backup.next_server);
    byname_cluster::restore(&options, file).await.map_err(cannot_start)?;
    Own::keep(&dir, &key, backup.next_server, sealed)?;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({
            "data": data.display().to_string(), "server": backup.next_server, "objects": backup.objects,
            "revision": backup.revision,
        }))?,
        Format::Name => screen.line(&data.display().to_string())?,
        Format::Table => screen.say(&format!(
            "byname: {} objects (revision {}) are in {}; it is server {} of a cluster of its own: `byname server --data {}`",
            backup.objects,
            backup.revision,
            data.display(),
            backup.next_server,
            data.display()
        )),
    }
    Ok(())
}

/// Makes a server the only one of its cluster.
pub(crate) async fn stand_alone(screen: &mut Screen, data: &Path) -> Outcome {
    if !data.join("log").is_dir() {
        let what = format!("{} is not the data directory of a server", data.display());
        return Err(Error::new(Code::NotFound, what).field("data").into());
    }
    let dir = DataDir::take(data)?;
    let id = match std::fs::read_to_string(dir.path(NUMBER)) {
        Ok(text) => text.trim().parse().map_err(|_| Error::invalid("data", format!("{NUMBER} holds no number")))?,
        Err(_) => 1,
    };
    let at = byname_cluster::stand_alone(&Options::new(dir.path("log"), id)).await.map_err(cannot_start)?;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "server": id, "term": at.term, "index": at.index }))?,
        Format::Name => screen.line(&format!("/byname/servers/{id}"))?,
        Format::Table => screen
            .say(&format!("byname: server {id} is the only one of its cluster now; what the others show is refused, and they have to join anew")),
    }
    Ok(())
}
