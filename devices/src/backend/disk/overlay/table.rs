//! Which cluster of the disk is where, as far as somebody has asked.
//!
//! The table of a large disk is mostly empty, so that a part of it is read when it is first needed. What changes is here
//! only, until whoever owns the file writes it down.

use std::io;

use super::format::{PAGE, PAGE_ENTRIES};

/// The entries of one disk.
#[derive(Debug)]
pub(super) struct Table {
    pages: Vec<Option<Box<Page>>>,
}

/// A piece of the table.
#[derive(Debug)]
struct Page {
    entries: Vec<u32>,
    /// The file holds something else.
    is_dirty: bool,
    /// The file has room for it.
    has_room: bool,
}

impl Table {
    /// Of `clusters` entries, none of which is known.
    pub(super) fn new(clusters: u64) -> Self {
        let pages = usize::try_from(clusters.div_ceil(PAGE_ENTRIES)).unwrap_or(0);
        Self { pages: std::iter::repeat_with(|| None).take(pages).collect() }
    }

    /// The entry of `cluster`; `load` fills the bytes of a piece of the table.
    pub(super) fn get(
        &mut self,
        cluster: u64,
        load: impl FnOnce(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<u32> {
        let page = self.page(cluster, load)?;
        Ok(page.entries.get(slot(cluster)).copied().unwrap_or(0))
    }

    /// Changes the entry of `cluster`, which was [got](Self::get) before.
    pub(super) fn set(&mut self, cluster: u64, entry: u32) {
        if let Some(page) = self.known(cluster)
            && let Some(place) = page.entries.get_mut(slot(cluster))
        {
            page.is_dirty |= *place != entry;
            *place = entry;
        }
    }

    /// Has `write` make room in the file for the entry of `cluster`, which was got before, where there may be none.
    pub(super) fn make_room(
        &mut self,
        cluster: u64,
        write: impl FnOnce(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(page) = self.known(cluster).filter(|page| !page.has_room) {
            write(cluster / PAGE_ENTRIES, &page.bytes())?;
            page.has_room = true;
            page.is_dirty = false;
        }
        Ok(())
    }

    /// Has `write` write down what changed; says whether anything did. What is not written stays changed.
    pub(super) fn write_changes(
        &mut self,
        mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut has_changed = false;
        for (number, page) in (0..).zip(&mut self.pages) {
            if let Some(page) = page.as_mut().filter(|page| page.is_dirty) {
                write(number, &page.bytes())?;
                has_changed = true;
            }
        }
        Ok(has_changed)
    }

    /// The changes have been written and have reached the disk.
    pub(super) fn is_written(&mut self) {
        self.pages.iter_mut().flatten().for_each(|page| page.is_dirty = false);
    }

    fn page(
        &mut self,
        cluster: u64,
        load: impl FnOnce(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<&mut Page> {
        let number = cluster / PAGE_ENTRIES;
        let place = usize::try_from(number).ok().and_then(|number| self.pages.get_mut(number));
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        if place.is_none() {
            let mut bytes = vec![0; usize::try_from(PAGE).unwrap_or(0)];
            load(number, &mut bytes)?;
            let (words, _) = bytes.as_chunks();
            let entries = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
            *place = Some(Box::new(Page { entries, is_dirty: false, has_room: false }));
        }
        place.as_deref_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether anybody has asked for an entry of this piece, each of [`PAGE_ENTRIES`].
    pub(super) fn has(&self, page: u64) -> bool {
        usize::try_from(page).is_ok_and(|page| self.pages.get(page).is_some_and(Option::is_some))
    }

    fn known(&mut self, cluster: u64) -> Option<&mut Page> {
        let number = usize::try_from(cluster / PAGE_ENTRIES).ok()?;
        self.pages.get_mut(number)?.as_deref_mut()
    }
}

impl Page {
    fn bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
    }
}

/// The place of an entry in its piece.
fn slot(cluster: u64) -> usize {
    usize::try_from(cluster % PAGE_ENTRIES).unwrap_or(0)
}
