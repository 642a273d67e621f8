//! What the master says about drives, slots and use, folded into one list.

use std::collections::BTreeMap;

use super::{
    SeaweedFs,
    error::{CallError, Part},
    wire::master as pb,
};

/// The cluster's drives, as the master sees them now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Bytes of one volume slot.
    pub slot_bytes: u64,
    /// One entry for each tag of each volume server.
    pub disks: Vec<Disk>,
}

/// The drives with one tag on one volume server; with one server for each drive: that drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The disk type tag; plain hard disks are the empty one.
    pub tag: String,
    /// The server, `ip:port` of its HTTP side.
    pub server: String,
    /// Its data center.
    pub data_center: String,
    /// Its rack.
    pub rack: String,
    /// Slots it may have.
    pub slots_max: u64,
    /// Slots in use.
    pub slots_used: u64,
    /// Slots that can still be taken.
    pub slots_free: u64,
    /// Size of its file system, bytes; 0 when the server does not say.
    pub bytes_total: u64,
    /// Free on its file system, bytes.
    pub bytes_free: u64,
    /// Collections (volumes) of which it holds a part.
    pub collections: Vec<String>,
    /// Slots that each of them takes there.
    pub slots_of: BTreeMap<String, u64>,
}

/// Sums over the drives of one tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagCapacity {
    /// Volume servers.
    pub servers: usize,
    /// Slots in all.
    pub slots_max: u64,
    /// Slots in use.
    pub slots_used: u64,
    /// Slots that can still be taken.
    pub slots_free: u64,
    /// Bytes of the file systems.
    pub bytes_total: u64,
    /// Free bytes of the file systems.
    pub bytes_free: u64,
}

impl Topology {
    /// The sums for one tag; zeros when no server has it.
    #[must_use]
    pub fn tag(&self, tag: &str) -> TagCapacity {
        self.disks
            .iter()
            .filter(|disk| disk.tag == tag)
            .fold(TagCapacity::default(), |sum, disk| TagCapacity {
                servers: sum.servers + 1,
                slots_max: sum.slots_max.saturating_add(disk.slots_max),
                slots_used: sum.slots_used.saturating_add(disk.slots_used),
                slots_free: sum.slots_free.saturating_add(disk.slots_free),
                bytes_total: sum.bytes_total.saturating_add(disk.bytes_total),
                bytes_free: sum.bytes_free.saturating_add(disk.bytes_free),
            })
    }

    /// What one server has, by its `ip:port`.
    pub fn server<'a>(&'a self, server: &'a str) -> impl Iterator<Item = &'a Disk> {
        self.disks.iter().filter(move |disk| disk.server == server)
    }

    /// Where a collection lies.
    pub fn holding<'a>(&'a self, collection: &'a str) -> impl Iterator<Item = &'a Disk> {
        self.disks
            .iter()
            .filter(move |disk| disk.collections.iter().any(|held| held == collection))
    }

    /// From the master's answer; sorted, so that equal clusters are equal.
    pub(super) fn from_answer(answer: pb::VolumeListResponse) -> Self {
        const MIB: u64 = 1 << 20;
        let mut disks = Vec::new();
        for data_center in answer.topology_info.unwrap_or_default().data_center_infos {
            for rack in data_center.rack_infos {
                for node in rack.data_node_infos {
                    let server = if node.address.is_empty() {
                        node.id
                    } else {
                        node.address
                    };
                    disks.extend(node.disk_infos.into_iter().map(|(tag, disk)| Disk {
                        server: server.clone(),
                        data_center: data_center.id.clone(),
                        rack: rack.id.clone(),
                        ..disk_of(tag, disk)
                    }));
                }
            }
        }
        disks.sort_by(|a, b| (&a.tag, &a.server).cmp(&(&b.tag, &b.server)));
        Self {
            slot_bytes: answer.volume_size_limit_mb.saturating_mul(MIB),
            disks,
        }
    }
}

impl SeaweedFs {
    /// Every drive of the cluster with its slots.
    ///
    /// # Errors
    /// When the master cannot be asked.
    pub async fn topology(&self) -> Result<Topology, CallError> {
        Ok(Topology::from_answer(self.volume_list(String::new()).await?))
    }

    /// Bytes that a volume holds, one copy, without garbage, as of the servers' last reports (about 5 s).
    ///
    /// # Errors
    /// When the master cannot be asked.
    pub async fn usage(&self, volume: &str) -> Result<u64, CallError> {
        let mut master = self.inner.master.clone();
        let answer = master
            .collection_statistics(pb::CollectionStatisticsRequest {})
            .await;
        match answer {
            Ok(answer) => Ok(answer
                .into_inner()
                .collections
                .iter()
                .find(|found| found.collection == volume)
                .map_or(0, |found| found.size.saturating_sub(found.deleted_byte_count))),
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                let list = self.volume_list(volume.to_owned()).await?;
                Ok(live_bytes(&list, volume))
            }
            Err(status) => Err(CallError::from_status(
                Part::Master,
                "sum up the collections",
                &status,
            )),
        }
    }

    /// `collection`: list the volumes of that one only; empty lists all.
    pub(super) async fn volume_list(&self, collection: String) -> Result<pb::VolumeListResponse, CallError> {
        let mut master = self.inner.master.clone();
        let request = pb::VolumeListRequest {
            collection,
            ..Default::default()
        };
        match master.volume_list(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(CallError::from_status(Part::Master, "list the volumes", &status)),
        }
    }
}

fn disk_of(tag: String, disk: pb::DiskInfo) -> Disk {
    let slots = |count: i64| u64::try_from(count).unwrap_or(0);
    let mut slots_of = BTreeMap::new();
    for volume in disk.volume_infos {
        *slots_of.entry(volume.collection).or_insert(0) += 1;
    }
    let collections = slots_of.keys().cloned().collect();
    Disk {
        tag,
        slots_max: slots(disk.max_volume_count),
        slots_used: slots(disk.volume_count),
        slots_free: slots(disk.free_volume_count),
        bytes_total: disk.disk_total_bytes,
        bytes_free: disk.disk_free_bytes,
        collections,
        slots_of,
        ..Disk::default()
    }
}

/// Live bytes of a collection, one copy, from the volumes that the master lists: for masters that cannot sum.
pub(super) fn live_bytes(answer: &pb::VolumeListResponse, collection: &str) -> u64 {
    let mut volumes: Vec<_> = answer
        .topology_info
        .iter()
        .flat_map(|info| &info.data_center_infos)
        .flat_map(|data_center| &data_center.rack_infos)
        .flat_map(|rack| &rack.data_node_infos)
        .flat_map(|node| node.disk_infos.values())
        .flat_map(|disk| &disk.volume_infos)
        .filter(|volume| volume.collection == collection)
        .collect();
    volumes.sort_by_key(|volume| (volume.id, std::cmp::Reverse(volume.size)));
    volumes.dedup_by_key(|volume| volume.id);
    volumes
        .iter()
        .map(|volume| volume.size.saturating_sub(volume.deleted_byte_count))
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: u32, collection: &str, size: u64, deleted: u64) -> pb::VolumeInformationMessage {
        pb::VolumeInformationMessage {
            id,
            collection: collection.into(),
            size,
            deleted_byte_count: deleted,
            ..Default::default()
        }
    }

    fn node(
        address: &str,
        tag: &str,
        max: i64,
        volumes: Vec<pb::VolumeInformationMessage>,
    ) -> pb::DataNodeInfo {
        let used = i64::try_from(volumes.len()).unwrap();
        let disk = pb::DiskInfo {
            max_volume_count: max,
            volume_count: used,
            free_volume_count: max - used,
            volume_infos: volumes,
            disk_total_bytes: 100,
            disk_free_bytes: 40,
            ..Default::default()
        };
        pb::DataNodeInfo {
            id: address.into(),
            address: address.into(),
            disk_infos: [(tag.to_owned(), disk)].into(),
            ..Default::default()
        }
    }

    fn answer() -> pb::VolumeListResponse {
        let rack = pb::RackInfo {
            id: "r1".into(),
            data_node_infos: vec![
                node(
                    "10.0.0.2:80",
                    "pool-a",
                    60,
                    vec![volume(1, "uv-1", 10, 4), volume(2, "uv-2", 7, 0)],
                ),
                node("10.0.0.1:80", "pool-a", 60, vec![volume(1, "uv-1", 10, 4)]),
                node("10.0.0.3:80", "", -1, vec![]),
            ],
        };
        let data_center = pb::DataCenterInfo {
            id: "dc1".into(),
            rack_infos: vec![rack],
        };
        let info = pb::TopologyInfo {
            data_center_infos: vec![data_center],
            ..Default::default()
        };
        pb::VolumeListResponse {
            topology_info: Some(info),
            volume_size_limit_mb: 32,
        }
    }

    #[test]
    fn a_tags_slots_are_summed_and_its_servers_found() {
        let topology = Topology::from_answer(answer());
        assert_eq!(topology.slot_bytes, 32 << 20);
        let pool = topology.tag("pool-a");
        assert_eq!(
            (pool.servers, pool.slots_max, pool.slots_used, pool.slots_free),
            (2, 120, 3, 117)
        );
        assert_eq!(topology.tag("pool-b"), TagCapacity::default());
        assert_eq!(
            topology
                .server("10.0.0.3:80")
                .map(|disk| disk.slots_max)
                .collect::<Vec<_>>(),
            [0]
        );
        let holders: Vec<_> = topology
            .holding("uv-1")
            .map(|disk| disk.server.as_str())
            .collect();
        assert_eq!(holders, ["10.0.0.1:80", "10.0.0.2:80"]);
    }

    #[test]
    fn copies_and_garbage_do_not_count_as_use() {
        assert_eq!(live_bytes(&answer(), "uv-1"), 6);
        assert_eq!(live_bytes(&answer(), "uv-9"), 0);
        let most = vec![volume(1, "uv-1", u64::MAX, 0), volume(2, "uv-1", u64::MAX, 0)];
        let mut absurd = answer();
        absurd.topology_info.as_mut().unwrap().data_center_infos[0].rack_infos[0].data_node_infos =
            vec![node("10.0.0.2:80", "pool-a", 60, most)];
        assert_eq!(live_bytes(&absurd, "uv-1"), u64::MAX);
    }
}
