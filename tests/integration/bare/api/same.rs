//! One machine by every way to describe it, and what a launcher of Firecracker says.

use harness::api::Api;
use harness::{Need, Scratch, Vmm, artifacts};
use serde_json::{Value, json};

use super::{bare, boot_source, end};

crate::suite::tests! { "bare::api::same" needs &[Need::Kvm];
    one_machine_by_three_ways,
    what_a_launcher_of_firecracker_says,
}

fn one_machine_by_three_ways() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", [7; 512]);
    let words = "same";
    let flags = Vmm::puppet(words)
        .inside(&scratch)
        .args(["--api-sock", "api.sock"])
        .disk(&disk, ",readonly,id=d");
    let by_flags = shown(&scratch, flags);
    let (mut machine, api) = bare(&scratch, &[]);
    api.put("/boot-source", &boot_source(words));
    api.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    let drive = json!({"drive_id": "d", "path_on_host": disk, "is_root_device": null, "is_read_only": true});
    // A launcher says whether it is the root; flags leave that open, and the machine is the same.
    let drive_said = json!({"drive_id": "d", "path_on_host": disk, "is_root_device": true, "is_read_only": true});
    api.put("/drives/d", &drive_said);
    api.put("/serial", &json!({}));
    api.action("InstanceStart");
    machine.wait_for("puppet: same\n");
    let mut by_api = api.get("/vm/config");
    end(machine);
    let file = scratch.file("vm.json", by_api.to_string());
    let by_file = shown(
        &scratch,
        Vmm::new().inside(&scratch).arg("--config-file").arg(file).args(["--api-sock", "api.sock"]),
    );
    assert_eq!(by_file, by_api);
    by_api["drives"][0]["is_root_device"] = drive["is_root_device"].clone();
    assert_eq!(by_flags, by_api);
}

fn shown(scratch: &Scratch, vmm: Vmm) -> Value {
    let mut machine = vmm.serial("stdio").spawn();
    let api = Api::at(&scratch.join("api.sock"));
    machine.wait_for("puppet: same\n");
    let config = api.get("/vm/config");
    end(machine);
    config
}

/// Published names only, as firecracker-go-sdk sends them.
fn what_a_launcher_of_firecracker_says() {
    let scratch = Scratch::new();
    let directory = scratch.join("bin");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink(artifacts::vmm(), directory.join("firecracker")).unwrap();
    let vmm = Vmm::program(directory.join("firecracker")).inside(&scratch).args([
        "--api-sock",
        "fc.sock",
        "--id",
        "vm-1",
        "--seccomp-filter-level",
        "0",
    ]);
    vmm.run().expect_code(153).expect_one_line(&["--seccomp-filter-level"]);
    let vmm = Vmm::program(directory.join("firecracker")).inside(&scratch).args([
        "--api-sock",
        "fc.sock",
        "--id=vm-1",
        "--no-seccomp",
        "--start-time-us",
        "1",
        "--start-time-cpu-us",
        "1",
        "--parent-cpu-time-us",
        "1",
        "--boot-timer",
        "--level",
        "Warning",
        "--show-level",
        "--show-log-origin",
        "--http-api-max-payload-size",
        "1048576",
    ]);
    let mut machine = vmm.spawn();
    let api = Api::at(&scratch.join("fc.sock"));
    let disk = scratch.sparse_file("rootfs", 1 << 20);
    assert!(api.get("/version")["firecracker_version"].is_string());
    let log = scratch.file("log", "");
    api.put(
        "/logger",
        &json!({"log_path": log, "level": "Debug", "show_level": true, "show_log_origin": false}),
    );
    api.put(
        "/machine-config",
        &json!({"vcpu_count": 1, "mem_size_mib": 64, "smt": false, "track_dirty_pages": false}),
    );
    api.put(
        "/boot-source",
        &json!({"kernel_image_path": artifacts::puppet(), "boot_args": "console=ttyS0"}),
    );
    let drive = json!({"drive_id": "root_drive", "path_on_host": disk, "is_root_device": true, "is_read_only": false,
        "cache_type": "Unsafe", "partuuid": "", "io_engine": "Sync"});
    let refused = api.request("PUT", "/drives/root_drive", &drive.to_string());
    assert!(refused.refused("bad_configuration").contains("partuuid"));
    let drive = json!({"drive_id": "root_drive", "path_on_host": disk, "is_root_device": true, "is_read_only": false});
    api.put("/drives/root_drive", &drive);
    api.action("InstanceStart");
    machine.wait_for("puppet: console=ttyS0 root=/dev/vda rw\n");
    api.action("SendCtrlAltDel");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("vmm[vm-1] INFO") && text.contains("The API server received a PUT request"),
        "{text}"
    );
    end(machine);
}
