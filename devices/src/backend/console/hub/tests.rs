use super::*;

fn hub() -> (Hub, Arc<EventFd>, Arc<EventFd>) {
    let hub = Hub::new(1024).unwrap();
    let early = hub.doorbell(Stage::Early).unwrap();
    let late = hub.doorbell(Stage::Late).unwrap();
    hub.sleep_until(0);
    (hub, early, late)
}

fn shown(hub: &Hub) -> Vec<u8> {
    hub.with_screen(|screen| screen.to_vec())
}

fn rang(bell: &EventFd) -> bool {
    bell.read().is_ok()
}

#[test]
fn the_late_device_takes_over_with_its_first_byte_and_gives_back_on_release() {
    let (hub, ..) = hub();
    hub.write(Stage::Early, b"early ", true);
    hub.write(Stage::Late, b"", true);
    hub.write(Stage::Early, b"still ", true);
    hub.write(Stage::Late, b"late ", true);
    hub.write(Stage::Early, b"unseen", true);
    hub.release(Stage::Late);
    hub.write(Stage::Early, b"again", true);
    assert_eq!(shown(&hub), b"early still late again");
    assert_eq!(hub.hidden(Stage::Early), b"unseen");
}

#[test]
fn input_goes_to_the_device_in_front_and_moves_with_it() {
    let (hub, early, late) = hub();
    hub.feed(b"abc");
    assert!(rang(&early) && !rang(&late));
    let mut to = [0; 8];
    assert_eq!(hub.read(Stage::Late, &mut to), 0);
    assert_eq!(hub.read(Stage::Early, &mut to[..1]), 1);
    hub.write(Stage::Late, b"#", true);
    assert!(rang(&late), "the rest of the input is its now");
    assert!(!hub.has_input(Stage::Early) && hub.has_input(Stage::Late));
    hub.release(Stage::Late);
    assert!(rang(&early));
    assert_eq!(hub.read(Stage::Early, &mut to), 2);
    assert_eq!(&to[..2], b"bc");
}

#[test]
fn a_late_device_alone_needs_no_first_byte() {
    let hub = Hub::new(16).unwrap();
    hub.feed(b"k");
    let late = hub.doorbell(Stage::Late).unwrap();
    assert!(rang(&late), "input that came before the device waits for it");
    assert!(hub.has_input(Stage::Late));
}

#[test]
fn the_same_stage_asked_twice_is_the_same_port() {
    let (hub, early, _) = hub();
    assert!(Arc::ptr_eq(&early, &hub.doorbell(Stage::Early).unwrap()));
}

#[test]
fn an_emergency_is_shown_but_does_not_take_over() {
    let (hub, ..) = hub();
    hub.write_emergency(b"!");
    hub.write(Stage::Early, b"early", true);
    assert_eq!(shown(&hub), b"!early");
}

#[test]
fn one_wake_up_per_round_and_none_while_the_host_sleeps() {
    let (hub, ..) = hub();
    hub.write(Stage::Early, b"a", true);
    hub.write(Stage::Early, b"b", true);
    assert_eq!(hub.wake.read().unwrap(), 1);
    hub.take_wake();
    hub.sleep_until(4);
    hub.write(Stage::Early, b"c", true);
    assert!(!rang(&hub.wake));
    hub.write(Stage::Early, b"d", false);
    assert!(!rang(&hub.wake));
    hub.write(Stage::Early, b"e", true);
    assert!(rang(&hub.wake));
}

#[test]
fn a_starved_source_is_called_when_half_the_room_is_free() {
    let (hub, ..) = hub();
    assert_eq!(hub.input_room(), INPUT_LIMIT);
    hub.feed(&[b'k'; INPUT_LIMIT]);
    assert_eq!(hub.input_room(), 0);
    let mut to = [0; INPUT_LIMIT];
    hub.read(Stage::Early, &mut to[..INPUT_LIMIT / 2 - 1]);
    assert!(!rang(&hub.wake));
    hub.read(Stage::Early, &mut to[..1]);
    assert!(rang(&hub.wake));
    hub.take_wake();
    hub.read(Stage::Early, &mut to);
    assert!(!rang(&hub.wake), "nobody is waiting any more");
}

#[test]
fn a_new_size_rings_once() {
    let (hub, early, late) = hub();
    let size = Size { columns: 80, rows: 25 };
    hub.set_size(size);
    assert!(rang(&early) && rang(&late));
    hub.set_size(size);
    assert!(!rang(&early) && !rang(&late));
    assert_eq!(hub.size(), Some(size));
}

#[test]
fn what_is_hidden_is_bounded() {
    let (hub, ..) = hub();
    hub.write(Stage::Late, b"#", true);
    for _ in 0..64 {
        hub.write(Stage::Early, &[b'x'; 4096], true);
    }
    assert_eq!(hub.hidden(Stage::Early).len(), HIDDEN_LIMIT);
}

type Heard = Arc<Mutex<Vec<(Stage, Vec<u8>)>>>;

struct Listener(Heard);

impl Overhear for Listener {
    fn hear(&mut self, stage: Stage, bytes: &[u8]) {
        self.0.lock().unwrap().push((stage, bytes.to_vec()));
    }
}

#[test]
fn a_listener_hears_each_device_shown_or_not() {
    let (hub, ..) = hub();
    let heard = Heard::default();
    hub.write(Stage::Early, b"before", true);
    hub.overhear(Box::new(Listener(heard.clone())));
    hub.write(Stage::Late, b"shown", true);
    hub.write(Stage::Early, b"hidden", true);
    let expected = [(Stage::Late, b"shown".to_vec()), (Stage::Early, b"hidden".to_vec())];
    assert_eq!(*heard.lock().unwrap(), expected);
}
