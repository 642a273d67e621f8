//! Protobuf over gRPC, with a bound on what a message may make its reader take.
//!
//! Two bytes on the wire can be an empty element that takes hundreds in memory, so a limit on the size of a message
//! alone is none on memory. A message with more than [`MOST_FIELDS`] fields, at all depths together, is refused before
//! it is decoded. Nothing else is changed or judged here.

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstCodec;

/// Fields of one message, at all depths together. A snapshot of a thousand drives has less than a tenth of that.
pub const MOST_FIELDS: usize = 1 << 20;
/// Fields of the first two levels, where the largest elements are.
pub const MOST_ELEMENTS: usize = 1 << 16;
/// Messages that are nested deeper are not looked into: prost itself ends at a hundred.
const DEEPEST: usize = 8;

/// The codec of every service of ours.
#[derive(Debug)]
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Decodes what is within bounds.
#[derive(Debug)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        decode(bytes).map(Some)
    }
}

/// Decodes a message that is within bounds.
///
/// # Errors
/// `InvalidArgument` where it is not, `Internal` where it is no such message, as gRPC has it.
pub fn decode<U: Message + Default>(bytes: Bytes) -> Result<U, Status> {
    if !is_bounded(&bytes) {
        return Err(Status::invalid_argument(format!(
            "the message has more than {MOST_ELEMENTS} elements or {MOST_FIELDS} fields"
        )));
    }
    U::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

/// Whether a message has no more fields than a reader can be asked to keep.
#[must_use]
pub fn is_bounded(message: &[u8]) -> bool {
    let (mut fields, mut elements) = (MOST_FIELDS, MOST_ELEMENTS);
    // What is no message below is a text: it counts as the one field that it is.
    count(message, 0, &mut fields, &mut elements);
    fields > 0 && elements > 0
}

/// Takes the fields of a message from what is left; ends early where nothing is left, or where it is no message.
fn count(mut bytes: &[u8], depth: usize, fields: &mut usize, elements: &mut usize) -> Option<()> {
    while !bytes.is_empty() {
        *fields = fields.checked_sub(1)?;
        if depth < 2 {
            *elements = elements.checked_sub(1)?;
        }
        let (tag, rest) = varint(bytes)?;
        bytes = match tag & 7 {
            0 => varint(rest)?.1,
            1 => rest.get(8..)?,
            2 => {
                let (length, rest) = varint(rest)?;
                let length = usize::try_from(length).ok()?;
                let inner = rest.get(..length)?;
                if depth < DEEPEST {
                    let _ = count(inner, depth + 1, fields, elements);
                }
                rest.get(length..)?
            }
            5 => rest.get(4..)?,
            _ => return None,
        };
    }
    Some(())
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::v1 as pb;

    fn snapshot(devices: usize, holders: usize) -> Bytes {
        let device = pb::Device {
            usage: Some(pb::Usage {
                holders: vec![pb::Holder::default(); holders],
                ..Default::default()
            }),
            ..Default::default()
        };
        let snapshot = pb::Snapshot {
            devices: vec![device; devices],
            ..Default::default()
        };
        let message = pb::agent_message::Message::Snapshot(snapshot);
        Bytes::from(
            pb::AgentMessage {
                message: Some(message),
            }
            .encode_to_vec(),
        )
    }

    #[test]
    fn an_honest_message_is_decoded_as_ever() {
        let message: pb::AgentMessage = decode(snapshot(2000, 20)).unwrap();
        assert_eq!(Bytes::from(message.encode_to_vec()), snapshot(2000, 20));
        assert_eq!(
            decode::<pb::AgentMessage>(Bytes::new()).unwrap(),
            pb::AgentMessage::default()
        );
        assert_eq!(
            decode::<pb::AgentMessage>(Bytes::from_static(b"\xff"))
                .unwrap_err()
                .code(),
            tonic::Code::Internal
        );
    }

    #[test]
    fn a_message_of_empty_elements_is_refused_before_it_takes_memory() {
        for bytes in [snapshot(100_000, 0), snapshot(20, 100_000)] {
            assert!(bytes.len() < 8 << 20);
            let refused = decode::<pb::AgentMessage>(bytes).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn a_long_text_is_one_field() {
        let words = pb::Resync {
            reason: "the quick brown fox ".repeat(1 << 16),
        };
        assert!(is_bounded(&words.encode_to_vec()));
    }
}
