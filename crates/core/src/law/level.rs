//! Levels: token counts on a grid of 240 integer steps per octave, the same on every machine.
//!
//! One step is 0.289 %. Rejected: `powf` and `log2`, which round differently between platforms and library versions; two
//! stores would then disagree about the same state.

use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// A token count in log space, steps of 1/240 octave: level 0 is 1 token, 240 is 2, 9,600 is 2^40.
pub type Level = i32;

/// Steps per octave (doubling).
pub const STEPS_PER_OCTAVE: u32 = 240;

/// The level of no token at all: below every other by more than any sum of rates.
pub const NONE: Level = -(1 << 20);

/// Tokens of `level`, rounded down: `2^(level / 240)`, from a table with 32 significant bits.
///
/// 0 for a negative level; `u64::MAX` from level 15,360 (2^64) on.
#[must_use]
#[expect(clippy::cast_sign_loss, reason = "the level is not negative here; TryFrom is not const")]
pub const fn tokens(level: Level) -> u64 {
    if level < 0 {
        return 0;
    }
    let (octave, step) = (level as u32 / STEPS_PER_OCTAVE, level as u32 % STEPS_PER_OCTAVE);
    let mantissa = MANTISSA[step as usize] as u64;
    match octave {
        0..=31 => mantissa >> (31 - octave),
        32..=63 => mantissa << (octave - 31),
        64.. => u64::MAX,
    }
}

/// The greatest level whose [`tokens`] are at most `count`; [`NONE`] for 0. Below some 400 tokens, where several levels
/// round down to one count, the topmost of them: 239 for 1, 380 for 2.
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "an octave is at most 63; TryFrom is not const")]
pub const fn of_tokens(count: u64) -> Level {
    let Some(octave) = count.checked_ilog2() else { return NONE };
    let base = (octave * STEPS_PER_OCTAVE) as Level;
    // tokens(base) = 2^octave <= count < 2^(octave + 1) = tokens(base + 240)
    let (mut at_most, mut above) = (0, STEPS_PER_OCTAVE as Level);
    while above - at_most > 1 {
        let middle = (at_most + above) / 2;
        if tokens(base + middle) <= count {
            at_most = middle;
        } else {
            above = middle;
        }
    }
    base + at_most
}

/// How `2^(steps / 240)` compares with `numerator / denominator`, exactly: as integers of some thousand bits. For checks of
/// a configuration, not for the data path.
pub(super) fn compare_growth(steps: u32, numerator: u64, denominator: u64) -> Ordering {
    let power = |base: u64| (0..STEPS_PER_OCTAVE).fold(vec![1], |product, _| times(product, base));
    let left = (0..steps).fold(power(denominator), |product, _| times(product, 2));
    let right = power(numerator);
    left.len().cmp(&right.len()).then_with(|| left.iter().rev().cmp(right.iter().rev()))
}

/// `number * factor`; a number is its digits of 64 bits, lowest first, without leading zeros.
fn times(mut number: Vec<u64>, factor: u64) -> Vec<u64> {
    let mut carry = 0;
    for digit in &mut number {
        (*digit, carry) = digit.carrying_mul(factor, carry);
    }
    if carry > 0 {
        number.push(carry);
    }
    number
}

/// `round(2^31 * 2^(i / 240))`.
#[rustfmt::skip]
const MANTISSA: [u32; STEPS_PER_OCTAVE as usize] = [
    2_147_483_648, 2_153_694_789, 2_159_923_894, 2_166_171_016, 2_172_436_206, 2_178_719_517, 2_185_021_001, 2_191_340_711,
    2_197_678_699, 2_204_035_018, 2_210_409_722, 2_216_802_863, 2_223_214_495, 2_229_644_672, 2_236_093_446, 2_242_560_872,
    2_249_047_003, 2_255_551_895, 2_262_075_600, 2_268_618_174, 2_275_179_671, 2_281_760_145, 2_288_359_653, 2_294_978_247,
    2_301_615_985, 2_308_272_921, 2_314_949_111, 2_321_644_610, 2_328_359_475, 2_335_093_761, 2_341_847_524, 2_348_620_821,
    2_355_413_709, 2_362_226_243, 2_369_058_481, 2_375_910_481, 2_382_782_298, 2_389_673_990, 2_396_585_615, 2_403_517_231,
    2_410_468_894, 2_417_440_664, 2_424_432_598, 2_431_444_755, 2_438_477_194, 2_445_529_972, 2_452_603_148, 2_459_696_783,
    2_466_810_934, 2_473_945_661, 2_481_101_024, 2_488_277_083, 2_495_473_896, 2_502_691_525, 2_509_930_029, 2_517_189_470,
    2_524_469_906, 2_531_771_400, 2_539_094_012, 2_546_437_802, 2_553_802_834, 2_561_189_167, 2_568_596_863, 2_576_025_984,
    2_583_476_593, 2_590_948_751, 2_598_442_521, 2_605_957_965, 2_613_495_145, 2_621_054_125, 2_628_634_969, 2_636_237_738,
    2_643_862_496, 2_651_509_307, 2_659_178_236, 2_666_869_345, 2_674_582_698, 2_682_318_362, 2_690_076_398, 2_697_856_874,
    2_705_659_852, 2_713_485_400, 2_721_333_580, 2_729_204_461, 2_737_098_106, 2_745_014_581, 2_752_953_954, 2_760_916_289,
    2_768_901_654, 2_776_910_114, 2_784_941_738, 2_792_996_591, 2_801_074_741, 2_809_176_256, 2_817_301_202, 2_825_449_648,
    2_833_621_662, 2_841_817_311, 2_850_036_665, 2_858_279_792, 2_866_546_760, 2_874_837_638, 2_883_152_496, 2_891_491_403,
    2_899_854_428, 2_908_241_642, 2_916_653_114, 2_925_088_915, 2_933_549_114, 2_942_033_782, 2_950_542_991, 2_959_076_811,
    2_967_635_313, 2_976_218_568, 2_984_826_649, 2_993_459_627, 3_002_117_574, 3_010_800_562, 3_019_508_664, 3_028_241_953,
    3_037_000_500, 3_045_784_380, 3_054_593_665, 3_063_428_429, 3_072_288_746, 3_081_174_689, 3_090_086_334, 3_099_023_753,
    3_107_987_022, 3_116_976_215, 3_125_991_407, 3_135_032_674, 3_144_100_091, 3_153_193_734, 3_162_313_678, 3_171_459_999,
    3_180_632_775, 3_189_832_080, 3_199_057_993, 3_208_310_589, 3_217_589_947, 3_226_896_144, 3_236_229_256, 3_245_589_363,
    3_254_976_542, 3_264_390_871, 3_273_832_429, 3_283_301_295, 3_292_797_547, 3_302_321_266, 3_311_872_529, 3_321_451_418,
    3_331_058_012, 3_340_692_390, 3_350_354_634, 3_360_044_825, 3_369_763_041, 3_379_509_366, 3_389_283_880, 3_399_086_665,
    3_408_917_802, 3_418_777_374, 3_428_665_462, 3_438_582_149, 3_448_527_519, 3_458_501_653, 3_468_504_636, 3_478_536_549,
    3_488_597_478, 3_498_687_507, 3_508_806_718, 3_518_955_197, 3_529_133_029, 3_539_340_297, 3_549_577_088, 3_559_843_487,
    3_570_139_579, 3_580_465_451, 3_590_821_187, 3_601_206_876, 3_611_622_603, 3_622_068_455, 3_632_544_520, 3_643_050_884,
    3_653_587_636, 3_664_154_863, 3_674_752_654, 3_685_381_096, 3_696_040_279, 3_706_730_292, 3_717_451_223, 3_728_203_162,
    3_738_986_199, 3_749_800_423, 3_760_645_926, 3_771_522_796, 3_782_431_126, 3_793_371_005, 3_804_342_526, 3_815_345_780,
    3_826_380_858, 3_837_447_853, 3_848_546_857, 3_859_677_963, 3_870_841_262, 3_882_036_850, 3_893_264_818, 3_904_525_260,
    3_915_818_271, 3_927_143_945, 3_938_502_376, 3_949_893_659, 3_961_317_888, 3_972_775_160, 3_984_265_569, 3_995_789_212,
    4_007_346_185, 4_018_936_583, 4_030_560_505, 4_042_218_046, 4_053_909_305, 4_065_634_377, 4_077_393_362, 4_089_186_358,
    4_101_013_462, 4_112_874_773, 4_124_770_391, 4_136_700_414, 4_148_664_943, 4_160_664_076, 4_172_697_914, 4_184_766_558,
    4_196_870_107, 4_209_008_664, 4_221_182_329, 4_233_391_203, 4_245_635_389, 4_257_914_989, 4_270_230_105, 4_282_580_839,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_exact() {
        for (step, &mantissa) in (0..).zip(&MANTISSA) {
            // m = round(2^31 x)  <=>  (2m - 1) / 2^32 < x < (2m + 1) / 2^32; x is irrational, so equality is impossible,
            // but for x = 1, which both hold for.
            let (doubled, unit) = (2 * u64::from(mantissa), 1 << 32);
            assert_eq!(compare_growth(step, doubled - 1, unit), Ordering::Greater, "step {step}");
            assert_eq!(compare_growth(step, doubled + 1, unit), Ordering::Less, "step {step}");
        }
    }

    #[test]
    fn the_table_agrees_with_floating_point() {
        for (step, &mantissa) in (0u32..).zip(&MANTISSA) {
            let expected = 2f64.powi(31) * 2f64.powf(f64::from(step) / 240.0);
            assert!((f64::from(mantissa) - expected).abs() <= 0.500_001, "step {step}");
        }
    }

    #[test]
    fn growth_compares_exactly() {
        assert_eq!(compare_growth(240, 2, 1), Ordering::Equal);
        assert_eq!(compare_growth(0, 1, 1), Ordering::Equal);
        assert_eq!(compare_growth(140, 3, 2), Ordering::Less);
        assert_eq!(compare_growth(141, 3, 2), Ordering::Greater);
        assert_eq!(compare_growth(9_600, 1 << 40, 1), Ordering::Equal);
        assert_eq!(compare_growth(9_600, (1 << 40) - 1, 1), Ordering::Greater);
    }

    #[test]
    fn a_level_is_the_greatest_that_fits() {
        let near = |level: Level| [tokens(level) - 1, tokens(level), tokens(level) + 1];
        for count in (0..15_360).flat_map(near).chain([u64::MAX - 1, u64::MAX]).filter(|&count| count > 0) {
            let level = of_tokens(count);
            assert!(
                tokens(level) <= count && count < tokens(level + 1).max(2) || count == u64::MAX,
                "{count}: {level}"
            );
        }
    }

    #[test]
    fn the_ends_saturate() {
        assert_eq!((of_tokens(0), of_tokens(1), of_tokens(2), of_tokens(1 << 40)), (NONE, 239, 380, 9_600));
        assert_eq!((tokens(NONE), tokens(-1), tokens(0), tokens(9_600)), (0, 0, 1, 1 << 40));
        assert_eq!((tokens(15_359), tokens(15_360), tokens(Level::MAX)), (4_282_580_839 << 32, u64::MAX, u64::MAX));
    }
}
