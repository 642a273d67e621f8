//! Every kind of difference is seen, and a picture without one has none.

use super::*;

fn good() -> Picture {
    let mut picture = Picture::default();
    picture.pools.insert(
        "pool".into(),
        Pool {
            phase: "Ready".into(),
            total: 60,
            promised: 10,
            available: 50,
            ..Pool::default()
        },
    );
    picture.members.insert(
        "member".into(),
        Member {
            name: "pm-a".into(),
            pool: "pool".into(),
            drive: "drive".into(),
            phase: "Online".into(),
            endpoint: "h:1".into(),
            slots: 60,
            slot_bytes: 1,
            ..Member::default()
        },
    );
    picture.claimed_drives.insert("drive".into());
    picture.marks.push(Mark {
        drive: "a.img".into(),
        member: "member".into(),
        released: false,
        going: false,
        whole: true,
    });
    picture.mounts.push("member".into());
    picture.mount_points.insert("member".into());
    picture.records.insert("member".into());
    picture.servers.push(Server {
        member: "member".into(),
        endpoint: "h:1".into(),
    });
    picture.at_master.insert("h:1".into());
    picture.nodes.insert("node".into());
    picture.tokens.insert("node".into());
    picture.claims.push(Claim {
        name: "default/one".into(),
        uid: "u".into(),
        phase: "Ready".into(),
        volume: "uv-1".into(),
        asked: 4,
        has: 4,
        access_key: "key".into(),
        ..Claim::default()
    });
    picture.volumes.insert(
        "uv-1".into(),
        Volume {
            pool: "pool".into(),
            claim_uid: "u".into(),
            bytes: 4,
            promised: 10,
            phase: "Ready".into(),
            ..Volume::default()
        },
    );
    let keys = ("key".to_owned(), "secret".to_owned());
    picture.secrets.insert("uv-1".into(), keys.clone());
    picture.identities.insert("uv-1".into(), vec![keys]);
    picture.directories.insert(
        "uv-1".into(),
        Directory {
            marked_as: "uv-1".into(),
            quota: 4,
            kept: false,
        },
    );
    picture.rules.push(Rule {
        volume: "uv-1".into(),
        disk_tag: "pool".into(),
        read_only: false,
    });
    picture.collections.insert("uv-1".into(), 1);
    picture.files.insert("uv-1".into());
    picture
}

#[test]
fn what_fits_together_has_no_differences() {
    assert_eq!(compare(&good()), Vec::<String>::new());
    assert_eq!(compare(&Picture::default()), Vec::<String>::new());
}

#[test]
fn a_released_mark_needs_no_member() {
    let mut picture = good();
    picture.marks.push(Mark {
        drive: "b.img".into(),
        member: "former".into(),
        released: true,
        going: true,
        whole: true,
    });
    assert_eq!(compare(&picture), Vec::<String>::new());
}

#[test]
fn what_may_never_be_is_told_from_what_is_half_way() {
    let found = |change: &dyn Fn(&mut Picture)| {
        let mut picture = good();
        change(&mut picture);
        never(&picture)
    };
    for half_way in [
        &(|p: &mut Picture| p.mounts.clear()) as &dyn Fn(&mut Picture),
        &|p| p.servers.clear(),
        &|p| p.pools.get_mut("pool").unwrap().promised = 11,
        &|p| (p.marks[0].going, p.marks[0].whole) = (true, false),
    ] {
        let change = |p: &mut Picture| {
            half_way(p);
            if p.marks[0].going {
                p.mounts.clear();
            }
        };
        assert_eq!(found(&change), Vec::<String>::new());
    }
    for (change, words) in [
        (
            &(|p: &mut Picture| p.marks[0].going = true) as &dyn Fn(&mut Picture),
            "is released, and it is mounted",
        ),
        (&|p| p.marks.push(p.marks[0].clone()), "drives with one mark"),
        (&|p| p.mounts.push("member".into()), "mounts of a member"),
        (&|p| p.records.clear(), "no record of it"),
        (
            &|p| p.pools.get_mut("pool").unwrap().promised = 9,
            "can be promised twice",
        ),
    ] {
        let found = found(change);
        assert!(
            found.iter().any(|sentence| sentence.contains(words)),
            "{words}: {found:?}"
        );
    }
}

#[test]
fn what_is_kept_after_its_volume_is_whole_and_counted_and_has_no_keys() {
    let kept = || {
        let mut picture = good();
        for (name, directory) in [("uv-1", false), ("uv-2", true)] {
            picture.directories.insert(
                name.into(),
                Directory {
                    marked_as: name.into(),
                    quota: 4,
                    kept: directory,
                },
            );
        }
        picture.rules.push(Rule {
            volume: "uv-2".into(),
            disk_tag: "pool".into(),
            read_only: false,
        });
        picture.collections.insert("uv-2".into(), 3);
        picture.files.insert("uv-2".into());
        let pool = picture.pools.get_mut("pool").unwrap();
        (pool.retained, pool.available) = (3, 47);
        picture
    };
    let found = |change: &dyn Fn(&mut Picture)| {
        let mut picture = kept();
        change(&mut picture);
        compare(&picture)
    };
    assert_eq!(found(&|_| {}), Vec::<String>::new());
    for (change, words) in [
        (
            &(|p: &mut Picture| drop(p.identities.insert("uv-2".into(), vec![]))) as &dyn Fn(&mut Picture),
            "S3 identity",
        ),
        (
            &|p: &mut Picture| drop(p.secrets.insert("uv-2".into(), Default::default())),
            "Secret",
        ),
        (
            &|p: &mut Picture| assert!(p.files.remove("uv-2")),
            "no file of it",
        ),
        (
            &|p: &mut Picture| assert_eq!(p.collections.insert("uv-2".into(), 4), Some(3)),
            "there are 4",
        ),
        (
            &|p: &mut Picture| p.directories.get_mut("uv-2").unwrap().kept = false,
            "directory, but no volume",
        ),
    ] {
        let found = found(change);
        assert!(
            found.iter().any(|sentence| sentence.contains(words)),
            "{words}: {found:?}"
        );
    }
}

#[test]
fn every_kind_of_difference_is_a_sentence() {
    let check = |change: &dyn Fn(&mut Picture), words: &str| {
        let mut picture = good();
        change(&mut picture);
        let found = compare(&picture);
        assert!(
            found.iter().any(|sentence| sentence.contains(words)),
            "{words}: {found:?}"
        );
    };
    let volume = |picture: &Picture| picture.volumes["uv-1"].clone();

    check(
        &|p| p.claims[0].phase = "Pending".into(),
        "claim default/one is Pending",
    );
    check(&|p| p.claims.clear(), "its claim does not exist");
    check(&|p| p.volumes.clear(), "its volume \"uv-1\" does not exist");
    check(&|p| p.claims[0].uid = "other".into(), "of another claim");
    check(&|p| p.claims[0].wanted = "uv-2".into(), "asks for volume uv-2");
    check(&|p| p.claims[0].asked = 8, "asks for 8 bytes");
    check(&|p| p.claims[0].has = 2, "says that it has 2 bytes");
    check(
        &|p| {
            let again = p.claims[0].clone();
            p.claims.push(again);
        },
        "claims for one volume",
    );
    check(
        &|p| p.volumes.get_mut("uv-1").unwrap().deleting = true,
        "deleting: true",
    );
    check(
        &|p| p.pools.get_mut("pool").unwrap().promised = 11,
        "has promised 11 bytes, its volumes hold 10",
    );
    check(
        &|p| p.pools.get_mut("pool").unwrap().total = 61,
        "its members have 60",
    );
    check(
        &|p| p.pools.get_mut("pool").unwrap().available = 1,
        "1 said to be free",
    );
    check(
        &|p| p.pools.get_mut("pool").unwrap().reserved.push("uv-9".into()),
        "still reserved for uv-9",
    );
    check(
        &|p| p.pools.get_mut("pool").unwrap().retained = 1,
        "says that 1 bytes are kept after their volumes, there are 0",
    );
    check(
        &|p| {
            let twin = volume(p);
            p.volumes.insert("uv-2".into(), twin);
        },
        "uv-2: volume, but no directory",
    );
    for (lost, words) in [
        ("directories", "no directory"),
        ("identities", "no S3 identity"),
        ("collections", "no collection"),
        ("files", "no file of it"),
        ("rules", "no rule"),
        ("secrets", "no Secret"),
    ] {
        check(
            &|p| match lost {
                "directories" => p.directories.clear(),
                "identities" => p.identities.clear(),
                "collections" => p.collections.clear(),
                "files" => p.files.clear(),
                "rules" => p.rules.clear(),
                _ => p.secrets.clear(),
            },
            words,
        );
    }
    check(
        &|p| drop(p.directories.insert("uv-9".into(), Directory::default())),
        "uv-9: directory, but no volume",
    );
    check(
        &|p| drop(p.secrets.insert("uv-9".into(), Default::default())),
        "uv-9",
    );
    check(
        &|p| assert_eq!(p.collections.insert("uv-9".into(), 1), None),
        "uv-9",
    );
    check(&|p| assert!(p.files.insert("uv-9".into())), "uv-9");
    check(
        &|p| {
            let again = p.rules[0].clone();
            p.rules.push(again);
        },
        "rules in filer.conf",
    );
    check(&|p| p.rules[0].read_only = true, "read-only: true");
    check(&|p| p.rules[0].disk_tag = "ssd".into(), "leads to \"ssd\"");
    check(
        &|p| p.directories.get_mut("uv-1").unwrap().quota = 3,
        "quota of 3 bytes",
    );
    check(
        &|p| p.directories.get_mut("uv-1").unwrap().marked_as = "uv-2".into(),
        "marked as \"uv-2\"",
    );
    check(
        &|p| {
            drop(
                p.identities
                    .insert("uv-1".into(), vec![("old".into(), "keys".into())]),
            )
        },
        "other keys than its Secret",
    );
    check(&|p| p.claims[0].access_key = "old".into(), "another access key");
    check(
        &|p| p.members.get_mut("member").unwrap().phase = "Failed".into(),
        "member pm-a (member) is Failed",
    );
    check(&|p| p.marks.clear(), "no mark on a drive");
    check(&|p| p.marks[0].released = true, "no mark on a drive");
    check(&|p| p.marks[0].whole = false, "copies of its mark differ");
    check(
        &|p| {
            let twin = p.marks[0].clone();
            p.marks.push(twin);
        },
        "drives with one mark",
    );
    check(&|p| p.members.clear(), "mark on a drive, but no PoolMember");
    check(&|p| p.mounts.push("member".into()), "mounts of a member");
    check(&|p| p.mounts.clear(), "no mount");
    check(&|p| assert!(p.mount_points.insert("former".into())), "former");
    check(&|p| assert!(p.records.insert("former".into())), "former");
    check(&|p| p.servers.clear(), "no volume server");
    check(
        &|p| {
            let twin = p.servers[0].clone();
            p.servers.push(twin);
        },
        "volume servers",
    );
    check(&|p| assert!(p.at_master.insert("h:9".into())), "h:9");
    check(
        &|p| p.claimed_drives.clear(),
        "no drive that its node calls claimed",
    );
    check(&|p| p.strays.push("7: weed".into()), "nobody's process");
    check(&|p| assert!(p.tokens.insert("gone".into())), "gone");
    check(&|p| p.leftovers.push("ca.new".into()), "ca.new was left");
}
