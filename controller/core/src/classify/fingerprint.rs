//! Models that are recognised by name: what the kernel's facts alone cannot tell (Optane media, virtual NVMe).
//!
//! A model is recognised by whole words or by the maker's part-number prefix, never by a guess from a brand: a
//! P5510 is NAND although its brand had Optane drives, and a 980 PRO is a good consumer NAND drive.

use super::Tier;

/// What is known of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Its family, as people call it.
    pub family: &'static str,
    /// Its tier.
    pub tier: Tier,
    /// Score before health, 0-100.
    pub score: u8,
    /// Whether it is a virtual drive: what is behind is not known.
    pub is_virtual: bool,
}

struct Rule {
    /// Part-number prefix of one word of the model.
    prefix: &'static [&'static str],
    /// Words of which all must be there.
    words: &'static [&'static str],
    fingerprint: Fingerprint,
}

const fn rule(
    prefix: &'static [&'static str],
    words: &'static [&'static str],
    family: &'static str,
    tier: Tier,
    score: u8,
) -> Rule {
    Rule {
        prefix,
        words,
        fingerprint: Fingerprint {
            family,
            tier,
            score,
            is_virtual: false,
        },
    }
}

const fn virtual_nvme(words: &'static [&'static str], family: &'static str) -> Rule {
    let fingerprint = Fingerprint {
        family,
        tier: Tier::FastNvme,
        score: 60,
        is_virtual: true,
    };
    Rule {
        prefix: &[],
        words,
        fingerprint,
    }
}

/// The first rule that fits wins.
const RULES: &[Rule] = &[
    rule(&["SSDPF21Q"], &[], "Optane P5800X", Tier::UltraFast, 100),
    rule(&[], &["P5800X"], "Optane P5800X", Tier::UltraFast, 100),
    rule(
        &["SSDPE21K", "SSDPED1K"],
        &[],
        "Optane P4800X",
        Tier::UltraFast,
        98,
    ),
    rule(&["SSDPEL1K"], &[], "Optane P4801X", Tier::UltraFast, 98),
    rule(&[], &["P4800X"], "Optane P4800X", Tier::UltraFast, 98),
    rule(&[], &["P4801X"], "Optane P4801X", Tier::UltraFast, 98),
    rule(&["SSDPEK1A"], &[], "Optane P1600X", Tier::UltraFast, 94),
    rule(&[], &["P1600X"], "Optane P1600X", Tier::UltraFast, 94),
    rule(
        &["SSDPE21D", "SSDPED1D", "SSDPEL1D"],
        &[],
        "Optane 900P/905P",
        Tier::UltraFast,
        96,
    ),
    rule(&[], &["OPTANE", "900P"], "Optane 900P", Tier::UltraFast, 96),
    rule(&[], &["OPTANE", "905P"], "Optane 905P", Tier::UltraFast, 96),
    rule(&[], &["900P"], "Optane 900P", Tier::UltraFast, 96),
    rule(&[], &["905P"], "Optane 905P", Tier::UltraFast, 96),
    // NAND of the maker that also made Optane drives.
    rule(
        &["SSDPF2KX", "SSDPF2NV"],
        &[],
        "D7-P5510 (NAND)",
        Tier::FastNvme,
        92,
    ),
    rule(&[], &["P5510"], "D7-P5510 (NAND)", Tier::FastNvme, 92),
    rule(
        &["SSDPE2KE", "SSDPE2KX", "SSDPE2ME", "SSDPE2MX"],
        &[],
        "DC P4000/P3000 (NAND)",
        Tier::FastNvme,
        90,
    ),
    // Makers' part numbers of drives for servers.
    rule(
        &["MZQL", "MZWL", "MZPL", "MZ1L", "MZTL"],
        &[],
        "Samsung server NVMe",
        Tier::FastNvme,
        92,
    ),
    rule(
        &["MTFDKC", "MTFDKB", "MTFDHAL"],
        &[],
        "Micron server NVMe",
        Tier::FastNvme,
        92,
    ),
    rule(
        &["KCM6", "KCM7", "KCD6", "KCD7", "KCD8"],
        &[],
        "Kioxia server NVMe",
        Tier::FastNvme,
        92,
    ),
    rule(
        &["WUS4", "WUS5", "WZS4"],
        &[],
        "Western Digital server NVMe",
        Tier::FastNvme,
        92,
    ),
    rule(&[], &["980", "PRO"], "Samsung 980 PRO", Tier::FastNvme, 86),
    rule(&[], &["990", "PRO"], "Samsung 990 PRO", Tier::FastNvme, 88),
    rule(&[], &["970", "EVO"], "Samsung 970 EVO", Tier::FastNvme, 82),
    virtual_nvme(&["QEMU", "NVME", "CTRL"], "QEMU NVMe"),
    virtual_nvme(&["AMAZON", "ELASTIC", "BLOCK", "STORE"], "Amazon EBS"),
    virtual_nvme(
        &["AMAZON", "EC2", "NVME", "INSTANCE", "STORAGE"],
        "Amazon EC2 instance store",
    ),
    virtual_nvme(&["VMWARE", "VIRTUAL", "NVME", "DISK"], "VMware NVMe"),
    virtual_nvme(&["NVME_CARD-PD"], "Google persistent disk"),
    virtual_nvme(&["MSFT", "NVME", "ACCELERATOR"], "Azure NVMe"),
];

/// What is known of a model's name, where it is known.
#[must_use]
pub fn recognise(model: &str) -> Option<Fingerprint> {
    let upper = model.to_uppercase();
    let words: Vec<&str> = upper.split_whitespace().collect();
    let fits = |rule: &&Rule| {
        let by_prefix = rule
            .prefix
            .iter()
            .any(|prefix| words.iter().any(|word| word.starts_with(prefix)));
        let by_words = !rule.words.is_empty() && rule.words.iter().all(|wanted| words.contains(wanted));
        by_prefix || by_words
    };
    RULES.iter().find(fits).map(|rule| rule.fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optane_media_are_ultra_fast_and_nand_is_not() {
        for model in [
            "INTEL SSDPF21Q800GB",
            "INTEL SSDPE21K375GA",
            "Intel Optane SSD P4800X",
            "INTEL SSDPE21D280GA",
            "INTEL OPTANE SSD 905P",
        ] {
            assert_eq!(
                recognise(model).map(|found| found.tier),
                Some(Tier::UltraFast),
                "{model}"
            );
        }
        for model in [
            "INTEL SSDPF2KX038TZ",
            "Intel D7 P5510",
            "Samsung SSD 980 PRO 1TB",
            "SAMSUNG MZQL23T8HCLS-00A07",
        ] {
            assert_eq!(
                recognise(model).map(|found| found.tier),
                Some(Tier::FastNvme),
                "{model}"
            );
        }
    }

    #[test]
    fn a_brand_alone_is_no_model() {
        assert_eq!(recognise("INTEL"), None);
        assert_eq!(recognise("Intel Optane Memory"), None);
        assert_eq!(recognise("ST4000NM0035"), None);
        assert_eq!(recognise(""), None);
    }
}
