//! A short run of each target, one after the other, because what they allocate is counted.

use std::sync::Mutex;

static ALONE: Mutex<()> = Mutex::new(());

fn short(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = super::all()
        .into_iter()
        .find(|target| target.name == name)
        .unwrap();
    crate::run::short(&target);
}

macro_rules! short {
    ($($test:ident = $name:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            short($name);
        })+

        #[test]
        fn every_target_has_its_short_run() {
            let mut here = vec![$($name),+];
            let mut all: Vec<_> = super::all().iter().map(|target| target.name).collect();
            here.sort_unstable();
            all.sort_unstable();
            assert_eq!(here, all);
        }
    };
}

short! {
    what_a_hostile_drive_holds = "drive",
    what_an_agent_streams = "stream",
    certificate_requests = "csr",
    requests_to_rest = "rest",
    requests_to_the_kubernetes_api = "kube",
    patches = "patch",
    lists_selectors_and_tokens = "list",
    calls_over_grpc = "grpc",
    evidence_of_identity = "identity",
    orders_of_a_controller = "order",
    files_of_members = "member-spec",
    attributes_of_sysfs = "sysfs",
    announcements_of_the_kernel = "uevent",
    the_database_of_udev = "udev",
    mount_tables = "mountinfo",
    swap_tables = "swaps",
    records_of_the_kernels_log = "kernel-log",
    nvme_identify = "nvme-identify",
    nvme_smart_logs = "nvme-smart",
    answers_of_nvme_cli = "nvme-cli",
    answers_of_smartctl = "smartctl",
    simulated_machines = "simulation",
    the_filers_rules = "filer-conf",
    the_masters_volumes = "volume-list",
    the_filers_entries = "filer-entry",
    quantities = "quantity",
    addresses_and_words = "words",
    join_tokens = "join-token",
    flags_of_both_programs = "flags",
}
