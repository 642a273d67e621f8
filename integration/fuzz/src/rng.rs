//! The dice: splitmix64, so that a seed gives the same run on every machine.

/// A stream of numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.number() % bound).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of `all`.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// A length: mostly short, sometimes up to `most`.
    pub fn length(&mut self, most: usize) -> usize {
        let bound = match self.below(8) {
            0 => most,
            1 | 2 => most.min(256),
            _ => most.min(16),
        };
        1 + self.below(bound)
    }

    /// A number that programs trip over.
    pub fn extreme(&mut self) -> u64 {
        let bit = 1_u64 << self.below(64);
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => bit,
            3 => bit.wrapping_sub(1),
            4 => bit.wrapping_add(1),
            5 => u64::MAX - u64::from(self.number() as u8),
            6 => u64::from(self.number() as u16),
            _ => self.number(),
        }
    }
}
