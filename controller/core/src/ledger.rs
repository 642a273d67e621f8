//! The ledger of a pool: what is promised, and for whom a promise was made that nobody can see a volume of yet.
//!
//! Bytes are promised in two writes: first the pool's sum is raised and the reservation noted beside it, then the
//! volume is written. Whoever counts in between, this leader, the next one or one that should have stopped, finds
//! the reservation and counts it. A reservation goes when its volume is there, or when its volume can never come
//! any more; never because somebody else counted.
//!
//! Nothing here waits or writes: every answer is a new ledger for a conditional update.

use crate::volume::{Cost, Shortage, reserve};

/// Bytes promised to a volume that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Name of the volume.
    pub volume: String,
    /// What the volume may take in all once it is written.
    pub bytes: u64,
    /// Who is writing it: only it may withdraw.
    pub by: String,
    /// Where an existing volume grows: its resourceVersion that the growth builds on. None for a new volume.
    pub grows: Option<String>,
}

/// What a pool has promised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The sum: every volume, and what reservations come to above that.
    pub promised: u64,
    /// What is being written.
    pub reservations: Vec<Reservation>,
}

/// A volume as the count sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is on the pool that is counted.
    pub here: bool,
    /// What is promised to it.
    pub bytes: u64,
    /// Its resourceVersion.
    pub version: &'a str,
}

/// What a count comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// The ledger as it has to be.
    Ledger(Ledger),
    /// Volumes whose growth may still be written: each has to be changed first, so that it cannot any more.
    Fence(Vec<String>),
}

impl Ledger {
    /// The reservation of a volume.
    #[must_use]
    pub fn of(&self, volume: &str) -> Option<&Reservation> {
        self.reservations.iter().find(|held| held.volume == volume)
    }

    /// What is promised to others than `volume`, where it has a reservation and is not written yet.
    #[must_use]
    pub fn promised_to_others(&self, volume: &str) -> u64 {
        let own = self.of(volume).filter(|held| held.grows.is_none());
        self.promised.saturating_sub(own.map_or(0, |held| held.bytes))
    }

    /// Promises `ask`; `held` is what the volume has already. A reservation of the same volume is taken over and
    /// costs nothing again.
    ///
    /// # Errors
    /// Where the pool's capacity does not hold it; nothing is promised then.
    pub fn reserve(&self, capacity: u64, ask: Reservation, held: u64) -> Result<Self, Shortage> {
        let before = self.of(&ask.volume);
        let counted = before.map_or(0, |before| before.bytes).max(held);
        let more = ask.bytes.saturating_sub(counted);
        let promised = if more == 0 {
            self.promised
        } else {
            reserve(
                capacity,
                self.promised,
                Cost {
                    bytes: more,
                    slots: 0,
                },
            )?
        };
        let mut reservations = self.others(&ask.volume);
        reservations.push(Reservation {
            // Who made it first may still write the larger one.
            bytes: ask.bytes.max(before.map_or(0, |before| before.bytes)),
            ..ask
        });
        Ok(Self {
            promised,
            reservations,
        })
    }

    /// Takes back the reservation of a new volume whose write was refused; only its own maker may.
    #[must_use]
    pub fn withdraw(&self, volume: &str, by: &str) -> Self {
        let Some(own) = self.of(volume).filter(|own| own.by == by && own.grows.is_none()) else {
            return self.clone();
        };
        Self {
            promised: self.promised.saturating_sub(own.bytes),
            reservations: self.others(volume),
        }
    }

    fn others(&self, volume: &str) -> Vec<Reservation> {
        let others = self.reservations.iter().filter(|held| held.volume != volume);
        others.cloned().collect()
    }

    /// Counts anew over all volumes there are. `is_void` says of the reservation of a volume that is not there
    /// whether nobody wants it any more.
    #[must_use]
    pub fn recount(&self, volumes: &[Held<'_>], is_void: impl Fn(&Reservation) -> bool) -> Counted {
        let mut promised = volumes
            .iter()
            .filter(|volume| volume.here)
            .fold(0_u64, |sum, volume| sum.saturating_add(volume.bytes));
        let (mut reservations, mut fence) = (Vec::new(), Vec::new());
        for reservation in &self.reservations {
            let volume = volumes.iter().find(|volume| volume.name == reservation.volume);
            match (volume, &reservation.grows) {
                // Its write may still arrive.
                (None, None) if !is_void(reservation) => {
                    promised = promised.saturating_add(reservation.bytes);
                    reservations.push(reservation.clone());
                }
                (Some(volume), Some(version))
                    if volume.version == version && volume.bytes < reservation.bytes =>
                {
                    fence.push(reservation.volume.clone());
                }
                // It is written, or it can never be: names are taken once, and updates name their version.
                _ => {}
            }
        }
        if fence.is_empty() {
            Counted::Ledger(Self {
                promised,
                reservations,
            })
        } else {
            Counted::Fence(fence)
        }
    }
}

#[cfg(test)]
mod tests;
