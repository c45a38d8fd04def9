//! The sample orchestrator, with guests that answer on sockets by themselves.

use std::process::Command;

use harness::{Need, artifacts, leaks};

crate::suite::tests! { "bare::orchestrator" needs &[Need::Kvm, Need::Python];
    twenty_machines_come_and_go,
}

fn twenty_machines_come_and_go() {
    const COUNT: usize = 20;
    let mark = format!("{}-orchestrator", std::process::id());
    let output = Command::new("python3")
        .arg(artifacts::workspace().join("resources/examples/orchestrator.py"))
        .arg(artifacts::vmm())
        .args([&COUNT.to_string(), "hello"])
        .arg(artifacts::bench_guest())
        .arg("serve port=9999 cid=3")
        .env(leaks::MARK, &mark)
        .output()
        .unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    for number in 0..COUNT {
        let line = format!("vm-{number}: ready by vsock, said 'did hello', ended with 143\n");
        assert!(said.contains(&line), "{line}{said}");
    }
    assert!(said.ends_with("20 machines came and went, and nothing is left of them\n"), "{said}");
    assert_eq!(leaks::processes_marked(&mark), Vec::<u32>::new());
}
