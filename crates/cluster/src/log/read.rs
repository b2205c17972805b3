//! Frames of one segment, one after the other.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FRAME_HEADER, FrameHeader, Record};
use crate::disk::{DiskFile, read_full};

/// Read from the file at once.
const BLOCK_BYTES: usize = 256 << 10;

/// What stands at a place of a segment.
pub(crate) enum Next {
    /// A good frame, its offset and its length, and how much of the file was on disk when it was written.
    Frame { offset: u64, bytes: u64, synced: u64, record: Record },
    /// Zeros, or no room for a frame: the end of what was written.
    End,
    /// Something else.
    Bad(&'static str),
}

/// Walks over a segment.
pub(crate) struct Frames {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    offset: u64,
    end: u64,
    block: Bytes,
    block_at: u64,
}

impl Frames {
    /// Walks from the frame at `offset`, never reading at or behind `end`.
    pub(crate) fn new(file: Arc<dyn DiskFile>, sequence: u64, offset: u64, end: u64) -> Frames {
        Frames { file, sequence, offset, end, block: Bytes::new(), block_at: offset }
    }

    /// Where the walk stands.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn next(&mut self) -> io::Result<Next> {
        let room = self.end.saturating_sub(self.offset);
        if room < FRAME_HEADER as u64 {
            return Ok(Next::End);
        }
        let head = self.view(FRAME_HEADER)?;
        if head.len() < FRAME_HEADER || head.iter().all(|&b| b == 0) {
            return Ok(Next::End);
        }
        let Some(header) = FrameHeader::read(&head, self.sequence, self.offset, room) else {
            return Ok(Next::Bad("what stands there is not a record"));
        };
        let frame = self.view(header.bytes() as usize)?;
        let Some(record) = header.decode(&frame) else {
            return Ok(Next::Bad("the checksum of a record is wrong"));
        };
        let offset = self.offset;
        self.offset += header.bytes();
        Ok(Next::Frame { offset, bytes: header.bytes(), synced: header.synced, record })
    }

    /// `bytes` bytes from where the walk stands, fewer at the end of the file.
    fn view(&mut self, bytes: usize) -> io::Result<Bytes> {
        let skip = (self.offset - self.block_at) as usize;
        if skip + bytes > self.block.len() {
            let left = self.end.saturating_sub(self.offset).min(BLOCK_BYTES.max(bytes) as u64) as usize;
            let mut block = vec![0; left];
            let got = read_full(&*self.file, &mut block, self.offset)?;
            block.truncate(got);
            self.block = block.into();
            self.block_at = self.offset;
            return Ok(self.block.slice(..bytes.min(got)));
        }
        Ok(self.block.slice(skip..skip + bytes))
    }
}
