//! Who has a piece of evidence, without asking the whole fleet.
//!
//! Pieces are kept as hashes: a fleet has millions of them. Two that share a hash make the view wider and nothing else,
//! because whoever is found here is compared piece by piece afterwards.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::{BuildHasher as _, RandomState},
    mem,
};

/// Owners by evidence. Almost every piece has one.
#[derive(Debug)]
pub(super) struct Index<T> {
    hashes: RandomState,
    owners: HashMap<u64, Owners<T>>,
}

#[derive(Debug)]
enum Owners<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Owners<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn add(&mut self, owner: T) {
        match self {
            Self::Many(many) => many.push(owner),
            Self::One(_) => {
                if let Self::One(one) = mem::replace(self, Self::Many(Vec::new())) {
                    *self = Self::Many(vec![one, owner]);
                }
            }
        }
    }
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            hashes: RandomState::new(),
            owners: HashMap::new(),
        }
    }
}

impl<T: Clone + Ord> Index<T> {
    /// `owner` has this piece, once more than before.
    pub(super) fn add(&mut self, piece: &str, owner: &T) {
        match self.owners.entry(self.hashes.hash_one(piece)) {
            Entry::Occupied(mut owners) => owners.get_mut().add(owner.clone()),
            Entry::Vacant(nobody) => {
                nobody.insert(Owners::One(owner.clone()));
            }
        }
    }

    /// `owner` has it once less.
    pub(super) fn remove(&mut self, piece: &str, owner: &T) {
        let Entry::Occupied(mut owners) = self.owners.entry(self.hashes.hash_one(piece)) else {
            return;
        };
        let mut left = owners.get().as_slice().to_vec();
        if let Some(position) = left.iter().position(|other| other == owner) {
            left.swap_remove(position);
        }
        match left.len() {
            0 => {
                owners.remove();
            }
            1 => left
                .into_iter()
                .for_each(|one| *owners.get_mut() = Owners::One(one)),
            _ => *owners.get_mut() = Owners::Many(left),
        }
    }

    /// Whoever has one of these pieces.
    pub(super) fn near<'a>(&self, pieces: impl IntoIterator<Item = &'a String>) -> BTreeSet<T> {
        pieces
            .into_iter()
            .filter_map(|piece| self.owners.get(&self.hashes.hash_one(piece)))
            .flat_map(Owners::as_slice)
            .cloned()
            .collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }
}
