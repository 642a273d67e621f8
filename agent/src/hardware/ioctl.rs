//! The workspace's only `unsafe`: ioctls on block devices and NVMe controllers, behind safe functions over a
//! [`BorrowedFd`].
//!
//! Every function here passes the kernel a pointer to a value that outlives the call and has the size that the
//! request code names; nothing else is done with raw pointers. It never opens anything and never retries.
#![allow(
    unsafe_code,
    reason = "ioctl is unsafe by nature; this is the one place for it"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::{self, c_int, c_void};
use serde::{Deserialize, Serialize};

mod raw {
    use super::{BlkpgArg, LoopInfo64, NvmeAdminCmd};
    nix::ioctl_read_bad!(get_diskseq, nix::request_code_read!(0x12, 128, 8), u64);
    nix::ioctl_read!(get_size64, 0x12, 114, usize);
    nix::ioctl_none!(reread_partitions, 0x12, 95);
    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), BlkpgArg);
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, LoopInfo64);
    nix::ioctl_readwrite!(nvme_admin, b'N', 0x41, NvmeAdminCmd);
    nix::ioctl_none_bad!(nvme_id, nix::request_code_none!(b'N', 0x40));
}

/// `struct nvme_passthru_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct NvmeAdminCmd {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// `struct blkpg_ioctl_arg` of `linux/blkpg.h`.
#[repr(C)]
struct BlkpgArg {
    op: c_int,
    flags: c_int,
    datalen: c_int,
    data: *mut c_void,
}

/// `struct blkpg_partition` of `linux/blkpg.h`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    pno: c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const BLKPG_ADD_PARTITION: c_int = 1;
const BLKPG_DEL_PARTITION: c_int = 2;

/// What a loop device is laid over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopStatus {
    /// Device number of the file system that holds the backing file.
    pub backing_device: u64,
    /// Inode of the backing file there.
    pub backing_inode: u64,
    /// Bytes of the file that are skipped.
    pub offset: u64,
    /// Bytes of the file that are used; 0: all.
    pub size_limit: u64,
}

/// An NVMe admin command that only reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NvmeRead {
    /// Identify Controller, 4096 bytes.
    Controller,
    /// Identify Namespace, 4096 bytes.
    Namespace(u32),
    /// Namespace Identification Descriptor list, 4096 bytes.
    Descriptors(u32),
    /// SMART / Health log page, 512 bytes.
    SmartLog,
}

fn io(error: nix::Error) -> io::Error {
    io::Error::from_raw_os_error(error as i32)
}

/// The kernel's disk sequence number of a whole disk.
///
/// # Errors
/// As the kernel answers; `ENOTTY` before Linux 5.15.
pub fn disk_sequence(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut value = 0_u64;
    // SAFETY: BLKGETDISKSEQ writes one u64 through the pointer, which lives until the call returns.
    unsafe { raw::get_diskseq(fd.as_raw_fd(), &raw mut value) }.map_err(io)?;
    Ok(value)
}

/// Size of a block device in bytes.
///
/// # Errors
/// As the kernel answers; `ENOTTY` for what is not a block device.
pub fn size_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // The request code is made from size_t, the kernel writes a u64 whatever the word size.
    let mut value = [0_usize; 8 / size_of::<usize>()];
    // SAFETY: BLKGETSIZE64 writes eight bytes, and `value` has eight.
    unsafe { raw::get_size64(fd.as_raw_fd(), value.as_mut_ptr()) }.map_err(io)?;
    let mut bytes = [0_u8; 8];
    for (to, word) in bytes.chunks_exact_mut(size_of::<usize>()).zip(value) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// Asks the kernel to read the partition table of a whole disk again.
///
/// # Errors
/// `EBUSY` while a partition is in use; `EINVAL` where the kernel knows no partitions on the device.
pub fn reread_partitions(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { raw::reread_partitions(fd.as_raw_fd()) }.map_err(io)?;
    Ok(())
}

/// Tells the kernel of one partition, where it does not read the table by itself.
///
/// # Errors
/// `EBUSY` where the number is taken or the range overlaps another partition.
pub fn add_partition(fd: BorrowedFd<'_>, number: u32, start_bytes: u64, length_bytes: u64) -> io::Result<()> {
    blkpg(fd, BLKPG_ADD_PARTITION, number, start_bytes, length_bytes)
}

/// Makes the kernel forget one partition; what is written on the device stays.
///
/// # Errors
/// `ENXIO` where there is none, `EBUSY` while it is in use.
pub fn delete_partition(fd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    blkpg(fd, BLKPG_DEL_PARTITION, number, 0, 0)
}

fn blkpg(fd: BorrowedFd<'_>, op: c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let out_of_range = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(out_of_range)?,
        length: i64::try_from(length).map_err(out_of_range)?,
        pno: c_int::try_from(number).map_err(out_of_range)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let arg = BlkpgArg {
        op,
        flags: 0,
        datalen: size_of::<BlkpgPartition>() as c_int,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: `arg` points to `partition`, both live until the call returns, and datalen is its size.
    unsafe { raw::blkpg(fd.as_raw_fd(), &raw const arg) }.map_err(io)?;
    Ok(())
}

/// What a loop device is laid over.
///
/// # Errors
/// `ENXIO` where nothing is attached, `ENOTTY` for what is no loop device.
pub fn loop_status(fd: BorrowedFd<'_>) -> io::Result<LoopStatus> {
    let mut info = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    // SAFETY: LOOP_GET_STATUS64 writes one struct loop_info64, and `info` has its layout and outlives the call.
    unsafe { raw::loop_get_status64(fd.as_raw_fd(), &raw mut info) }.map_err(io)?;
    Ok(LoopStatus {
        backing_device: info.device,
        backing_inode: info.inode,
        offset: info.offset,
        size_limit: info.sizelimit,
    })
}

/// The namespace number of an NVMe block device.
///
/// # Errors
/// `ENOTTY` for what is no NVMe namespace.
pub fn nvme_namespace_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: NVME_IOCTL_ID takes no argument.
    let id = unsafe { raw::nvme_id(fd.as_raw_fd()) }.map_err(io)?;
    u32::try_from(id).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
}

/// Runs an NVMe admin command that only reads, on a controller or on one of its namespaces, and answers its data.
///
/// # Errors
/// As the kernel answers; a status of the controller is an error of kind `Other` that names it.
pub fn nvme_read(fd: BorrowedFd<'_>, what: NvmeRead) -> io::Result<Vec<u8>> {
    const IDENTIFY: u8 = 0x06;
    const GET_LOG_PAGE: u8 = 0x02;
    let (opcode, nsid, cdw10, len) = match what {
        NvmeRead::Namespace(nsid) => (IDENTIFY, nsid, 0, 4096_u32),
        NvmeRead::Controller => (IDENTIFY, 0, 1, 4096),
        NvmeRead::Descriptors(nsid) => (IDENTIFY, nsid, 3, 4096),
        // Log page 2; number of dwords - 1 in the upper half.
        NvmeRead::SmartLog => (GET_LOG_PAGE, u32::MAX, 0x02 | ((512 / 4 - 1) << 16), 512),
    };
    let mut data = vec![0_u8; len as usize];
    let mut command = NvmeAdminCmd {
        opcode,
        nsid,
        addr: data.as_mut_ptr() as u64,
        data_len: len,
        cdw10,
        timeout_ms: 5_000,
        ..NvmeAdminCmd::default()
    };
    // SAFETY: the kernel writes at most data_len bytes at addr, which is `data`'s; both outlive the call, and the
    // commands above change nothing on the device.
    let status = unsafe { raw::nvme_admin(fd.as_raw_fd(), &raw mut command) }.map_err(io)?;
    match status {
        0 => Ok(data),
        status => Err(io::Error::other(format!(
            "the controller answered status {status:#x}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn structs_have_the_kernels_sizes() {
        assert_eq!(size_of::<NvmeAdminCmd>(), 72);
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<BlkpgPartition>(), 152);
        assert_eq!(size_of::<BlkpgArg>(), 24);
    }

    #[test]
    fn what_is_no_block_device_is_an_error_and_no_crash() {
        let file = tempfile::tempfile().unwrap();
        assert!(disk_sequence(file.as_fd()).is_err());
        assert!(size_bytes(file.as_fd()).is_err());
        assert!(loop_status(file.as_fd()).is_err());
        assert!(nvme_namespace_id(file.as_fd()).is_err());
        assert!(nvme_read(file.as_fd(), NvmeRead::SmartLog).is_err());
        assert!(add_partition(file.as_fd(), 1, 0, 4096).is_err());
        assert!(delete_partition(file.as_fd(), 1).is_err());
        assert!(reread_partitions(file.as_fd()).is_err());
    }
}
