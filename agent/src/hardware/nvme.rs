//! What NVMe controllers answer, from their bytes: Identify Controller and the SMART / Health log (NVM Express base
//! specification 2.0, figures 275 and 207). Short answers give what is in them.

use super::Health;

/// The parts of Identify Controller that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Controller {
    /// Serial number.
    pub(super) serial: Option<String>,
    /// Model number.
    pub(super) model: Option<String>,
    /// Firmware revision.
    pub(super) firmware: Option<String>,
    /// How many namespaces there can be.
    pub(super) namespaces: Option<u32>,
    /// Capacity of everything behind the controller in bytes; none where it does not say.
    pub(super) total_bytes: Option<u64>,
}

/// Reads an Identify Controller structure (4096 bytes).
pub(super) fn controller(bytes: &[u8]) -> Controller {
    Controller {
        serial: text(bytes, 4, 20),
        model: text(bytes, 24, 40),
        firmware: text(bytes, 64, 8),
        namespaces: bytes
            .get(516..)
            .and_then(|b| b.first_chunk())
            .map(|b| u32::from_le_bytes(*b)),
        total_bytes: counter(bytes, 280).filter(|total| *total != 0),
    }
}

/// Reads a SMART / Health log page (512 bytes); none where it is cut off before the first counters.
pub(super) fn health(bytes: &[u8]) -> Option<Health> {
    let byte = |at: usize| bytes.get(at).map(|b| u32::from(*b));
    let kelvin = bytes
        .get(1..3)
        .and_then(|b| b.first_chunk())
        .map(|b| u16::from_le_bytes(*b))?;
    Some(Health {
        critical_warning: byte(0),
        temperature_celsius: u32::from(kelvin).checked_sub(273),
        available_spare_percent: byte(3),
        available_spare_threshold_percent: byte(4),
        percentage_used: byte(5),
        power_on_hours: counter(bytes, 128),
        media_errors: counter(bytes, 160),
        source: "nvme ioctl".into(),
        ..Health::default()
    })
}

/// Counters have 16 bytes; more than fits into eight is held at the largest number.
fn counter(bytes: &[u8], at: usize) -> Option<u64> {
    let value = u128::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    Some(u64::try_from(value).unwrap_or(u64::MAX))
}

fn text(bytes: &[u8], at: usize, count: usize) -> Option<String> {
    let field = bytes.get(at..)?.get(..count)?;
    super::sysfs::meaningful(&String::from_utf8_lossy(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_controller_is_read_field_by_field() {
        let mut bytes = vec![0_u8; 4096];
        bytes[4..24].copy_from_slice(b"NVSER0001           ");
        bytes[24..64].copy_from_slice(b"QEMU NVMe Ctrl                          ");
        bytes[64..72].copy_from_slice(b"10.0.2  ");
        bytes[280..288].copy_from_slice(&3_840_000_000_000_u64.to_le_bytes());
        bytes[516..520].copy_from_slice(&256_u32.to_le_bytes());
        let found = controller(&bytes);
        assert_eq!(found.serial.as_deref(), Some("NVSER0001"));
        assert_eq!(found.model.as_deref(), Some("QEMU NVMe Ctrl"));
        assert_eq!(found.firmware.as_deref(), Some("10.0.2"));
        assert_eq!(
            (found.namespaces, found.total_bytes),
            (Some(256), Some(3_840_000_000_000))
        );
    }

    #[test]
    fn a_smart_log_is_read_field_by_field() {
        let mut bytes = vec![0_u8; 512];
        bytes[0] = 13;
        bytes[1..3].copy_from_slice(&323_u16.to_le_bytes());
        bytes[3..6].copy_from_slice(&[90, 10, 120]);
        bytes[128..136].copy_from_slice(&4242_u64.to_le_bytes());
        bytes[160..176].copy_from_slice(&u128::MAX.to_le_bytes());
        let found = health(&bytes).unwrap();
        assert_eq!(found.critical_warning, Some(13));
        assert_eq!(found.temperature_celsius, Some(50));
        assert_eq!(found.available_spare_percent, Some(90));
        assert_eq!(found.available_spare_threshold_percent, Some(10));
        assert_eq!(found.percentage_used, Some(120));
        assert_eq!(found.power_on_hours, Some(4242));
        assert_eq!(found.media_errors, Some(u64::MAX));
    }

    #[test]
    fn what_was_not_answered_is_not_zero() {
        assert_eq!(health(&[]), None);
        assert_eq!(health(&[0; 64]).unwrap().media_errors, None);
        assert_eq!(controller(&[0; 100]), Controller::default());
    }

    proptest! {
        #[test]
        fn random_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let _ = (controller(&bytes), health(&bytes));
        }
    }
}
