//! Which words say nothing of whose a machine is, and which look as if they did.

/// Words of buses, links, kernels, tools: never swept out of a text.
const COMMON: &str = "\
    add agent ata block boot bus by com crypt ctl data deleted dev device devices disk diskseq dm drive efi end eui \
    exp fc filesystem harddisk host id ip iscsi label linux luks1 luks2 lun lvm mapper md media mode \
    mpath naa name net none nqn nvme nvmexpress org part partition partlabel partuuid path pci phy plain \
    platform port pv qemu ro root rw sas sata scsi sleep smartctl standby subsystem swap system t10 temp \
    usb uuid verity virtio virtual vmbus volume wwn";

/// Folders that every system has.
const FOLDERS: &str = "\
    block boot containerd containers csi deleted dev docker efi etc globalmount home img io kubelet \
    kubernetes lib media mnt mount opt overlay plugins pods proc raw root run snap srv storage swap \
    swapfile sys tmp usr var volumes";

fn has(words: &str, word: &str) -> bool {
    words.split(' ').any(|one| one == word)
}

pub(super) fn is_common(word: &str) -> bool {
    has(COMMON, word)
}

pub(super) fn is_folder(word: &str) -> bool {
    has(FOLDERS, word)
}

pub(super) fn is_short(word: &str) -> bool {
    word.len() < 3 || (word.len() < 6 && word.chars().all(|c| c.is_ascii_digit()))
}

pub(super) fn looks_like_id(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let hexadecimal = word.chars().all(|c| c.is_ascii_hexdigit());
    super::pieces::is_address(word)
        || (hexadecimal && word.len() >= 12)
        || (word.len() >= 8 && digits >= 4 && digits < word.len())
}

/// `sda1`, `nvme0n1p2`, `loop7`, `part3`, `host6`: where something is, never who.
pub(super) fn is_kernel_name(word: &str) -> bool {
    const NUMBERED: &str = "\
    ata b bcache c dm exp host loop lun md mmcblk n nbd nvme p part pci phy pmem port sr target usb vd \
    virtio zram";
    let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
    let partition = word.len() - letters.len() <= 3;
    let disk = ["sd", "vd", "xvd"]
        .iter()
        .filter_map(|prefix| letters.strip_prefix(prefix))
        .any(|rest| (1..=3).contains(&rest.len()) && rest.chars().all(|c| c.is_ascii_lowercase()));
    let numbers = word
        .split(|c: char| !c.is_ascii_digit())
        .all(|run| run.len() <= 4);
    let numbered = numbers
        && word
            .split(|c: char| c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .all(|part| has(NUMBERED, part));
    (disk && partition) || (numbered && word.starts_with(|c: char| c.is_ascii_lowercase()) && word.len() > 1)
}
