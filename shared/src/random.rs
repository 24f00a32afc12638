//! Numbers that look random and are the same on every machine: made-up inputs, self-tests and tests.

/// A generator, splitmix64, from a seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

/// The step between two states.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A whole number below `most`, or 0 where that is 0.
    pub fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Roughly normal, standard deviation 1.
    pub fn normal(&mut self) -> f32 {
        self.unit() + self.unit() + self.unit()
    }

    /// An int8 weight or activation, which is never -128.
    pub fn int8(&mut self) -> i8 {
        ((self.next() % 255) as i32 - 127) as i8
    }
}

/// The number at a place of the sequence that begins at `seed`, counted from 0.
pub fn at(seed: u64, place: u64) -> u64 {
    mix(seed.wrapping_add((place.wrapping_add(1)).wrapping_mul(STEP)))
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // From https://prng.di.unimi.it/splitmix64.c with the seed 1234567.
        let want = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        let mut random = Random(1_234_567);
        for (place, want) in (0..).zip(want) {
            assert_eq!((random.next(), at(1_234_567, place)), (want, want));
        }
    }
}
