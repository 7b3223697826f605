//! The importer pod for disks in container images.

use super::pod::Pod;
use super::{SIZE, web};
use crate::rig::{
    PULLER, PULLER_SECRET, Registry, Room, Web, assert_same_bytes, give_to_pod, random_disk, run,
};
use std::fs;
use std::path::{Path, PathBuf};

const DONE: &str = r#"{"scratchSpaceRequired":false,"preallocationApplied":false,"labels":{"instancetype.kubevirt.io/default-preference":"fedora"},"message":"Import Complete"}"#;
const INSECURE: (&str, &str) = ("INSECURE_TLS", "true");
const PULL: &str = "Unable to process data: failed to pull image: ";

/// A layer that GNU tar makes of what `script` puts into the directory that it runs in.
fn layer(room: &Room, name: &str, script: &str) -> PathBuf {
    let path = room.path(name);
    let script = format!(
        "mkdir -p {name}.in && cd {name}.in && {script} && tar --owner=0 --group=0 -czf {} .",
        path.display()
    );
    run(
        "bash",
        [
            "-ec",
            &format!("cd {} && {script}", room.path(".").display()),
        ],
    );
    path
}

/// A room with a disk, and layers: of an operating system without one, and with that disk.
fn layers() -> (Room, PathBuf, PathBuf) {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 61);
    let system = "mkdir -p etc usr/bin && echo x > etc/issue && ln -s /etc/issue etc/link && \
                  ln etc/issue etc/hard && mkfifo etc/pipe && mkdir diskette && echo y > diskette/no";
    let base = layer(&room, "base", system);
    let top = layer(&room, "top", "mkdir disk && cp ../disk disk/disk.img");
    (room, base, top)
}

#[test]
fn a_disk_in_a_container_image_is_imported_by_tag_or_digest_with_its_labels() {
    let (room, base, top) = layers();
    let registry = Registry::open();
    let digest = registry.push("disks/fedora", "40", "amd64", &[&base, &top]);
    for image in [
        "disks/fedora:40".to_owned(),
        format!("disks/fedora@{digest}"),
    ] {
        for pod in [Pod::new(), Pod::with_device(SIZE)] {
            let address = registry.address(&image);
            assert_eq!(
                pod.import(0, "registry", &address, &[INSECURE]),
                DONE,
                "{image}"
            );
            assert_same_bytes(&room.path("disk"), &pod.disk());
        }
    }
}

#[test]
fn an_image_that_is_not_there_or_not_for_this_architecture_is_one_line() {
    let (_room, base, top) = layers();
    let registry = Registry::open();
    registry.push("disk", "40", "arm64", &[&base, &top]);
    registry.push("empty", "1", "amd64", &[&base]);
    let pod = Pod::with_device(SIZE);
    let nobody = "docker://127.0.0.1:1/disk".to_owned();
    for (address, part) in [
        (registry.address("disk:41"), "404"),
        (registry.address("none:40"), "404"),
        (
            registry.address("disk:40"),
            "not there for the architecture amd64",
        ),
        (nobody, "connect to 127.0.0.1:1"),
        ("oci-archive:/x.tar".to_owned(), "only docker:// is pulled"),
        ("docker://".to_owned(), "no HOST/NAME:TAG"),
    ] {
        let message = pod.import(1, "registry", &address, &[INSECURE]);
        assert!(
            message.starts_with(PULL) && message.contains(part),
            "{message}"
        );
    }
    let empty = pod.import(1, "registry", &registry.address("empty:1"), &[INSECURE]);
    assert!(empty.contains("holds a file below /disk"), "{empty}");
    let arm = ("IMPORTER_REGISTRY_IMAGE_ARCHITECTURE", "arm64");
    let other = pod.import(
        0,
        "registry",
        &registry.address("disk:40"),
        &[INSECURE, arm],
    );
    assert_eq!(other, DONE);
    // One image that is there for nobody in particular is taken, if nobody says what is wanted.
    let alone = pod.import(
        0,
        "registry",
        &registry.address("disk:40-arm64"),
        &[INSECURE],
    );
    assert_eq!(alone, DONE);
    let wanted = [INSECURE, ("IMPORTER_REGISTRY_IMAGE_ARCHITECTURE", "amd64")];
    let other = pod.import(1, "registry", &registry.address("disk:40-arm64"), &wanted);
    assert!(other.contains("for arm64, and amd64 is wanted"), "{other}");
    let secure = pod.import(1, "registry", &registry.address("disk:40"), &[]);
    let part = "what answers speaks no TLS";
    assert!(
        secure.contains("start TLS with") && secure.contains(part),
        "{secure}"
    );
}

/// Not even where a registry without TLS is as good is one with it asked without.
#[test]
fn a_registry_with_tls_is_not_asked_without() {
    let web = Web::new();
    let address = web.https("disk:1").replace("https://", "docker://");
    let message = Pod::with_device(SIZE).import(1, "registry", &address, &[INSECURE]);
    assert!(message.contains("404"), "{message}");
    let served = web.served();
    assert!(
        !served.is_empty() && served.iter().all(|it| it.status == 404),
        "{served:?}"
    );
}

/// A registry that could be asked in several ways, of which we speak the last.
#[test]
fn a_challenge_that_is_not_spoken_does_not_hide_another() {
    let (_room, _base, top) = layers();
    let registry = Registry::closed();
    registry.push("disk", "40", "amd64", &[&top]);
    let rules = format!(
        "location /v2/ {{ proxy_pass http://127.0.0.1:{}; proxy_hide_header WWW-Authenticate;\n\
         add_header WWW-Authenticate Negotiate always;\n\
         add_header WWW-Authenticate 'Basic realm=\"r\"' always; }}",
        registry.port()
    );
    let web = Web::with(&rules);
    let address = format!("docker://127.0.0.1:{}/disk:40", web.port());
    let known = [
        INSECURE,
        ("IMPORTER_ACCESS_KEY_ID", PULLER),
        ("IMPORTER_SECRET_KEY", PULLER_SECRET),
    ];
    assert_eq!(
        Pod::with_device(SIZE).import(0, "registry", &address, &known),
        DONE
    );
}

#[test]
fn who_is_not_known_gets_nothing_and_no_secret_is_shown() {
    let (room, base, top) = layers();
    let registry = Registry::closed();
    registry.push("disk", "40", "amd64", &[&base, &top]);
    let pod = Pod::with_device(SIZE);
    let address = registry.address("disk:40");
    let login = |user, secret| {
        [
            INSECURE,
            ("IMPORTER_ACCESS_KEY_ID", user),
            ("IMPORTER_SECRET_KEY", secret),
        ]
    };
    for env in [
        &[INSECURE][..],
        &login(PULLER, "wrong-s3cret"),
        &login("nobody", PULLER_SECRET),
    ] {
        let message = pod.import(1, "registry", &address, env);
        assert!(message.starts_with(PULL), "{message}");
        assert!(message.contains("401 Unauthorized"), "{message}");
    }
    let known = login(PULLER, PULLER_SECRET);
    assert_eq!(pod.import(0, "registry", &address, &known), DONE);
    assert_same_bytes(&room.path("disk"), &pod.disk());
}

/// nginx in front of a registry, with TLS, giving tokens as the large registries do; layers come at
/// `rate`.
fn tokens(registry: &Registry, rate: &str) -> Web {
    let rules = format!(
        r#"
        location /v2/ {{
            if ($http_authorization != "Bearer t0ken") {{
                add_header WWW-Authenticate 'Bearer realm="https://localhost:$TLS/token",service="r",scope="repository:disk:pull"' always;
                return 401;
            }}
            proxy_pass http://127.0.0.1:{};
            limit_rate {rate};
        }}
        location = /token {{
            auth_basic "tokens"; auth_basic_user_file $DIR/users;
            if ($arg_scope != "repository%3Adisk%3Apull") {{ return 404; }}
            alias $DIR/files/token;
        }}"#,
        registry.port()
    );
    let web = Web::with(&rules);
    let users = format!("{PULLER}:{{PLAIN}}{PULLER_SECRET}\n");
    fs::write(web.file("../users"), users).unwrap();
    web
}

/// A token that is good for a shorter time than the layer takes is asked for again meanwhile.
#[test]
fn a_token_is_renewed_before_it_ends() {
    let (room, _base, top) = layers();
    let registry = Registry::open();
    registry.push("disk", "40", "amd64", &[&top]);
    let web = tokens(&registry, "300k");
    fs::write(
        web.file("token"),
        r#"{"access_token":"t0ken","expires_in":1}"#,
    )
    .unwrap();
    let address = web.https("disk:40").replace("https://", "docker://");
    let pod = Pod::with_device(SIZE);
    let login = [
        INSECURE,
        ("IMPORTER_ACCESS_KEY_ID", PULLER),
        ("IMPORTER_SECRET_KEY", PULLER_SECRET),
    ];
    assert_eq!(pod.import(0, "registry", &address, &login), DONE);
    assert_same_bytes(&room.path("disk"), &pod.disk());
    let given = web.served().into_iter().filter(|it| it.path == "/token");
    let given = given.filter(|it| it.status == 200).count();
    assert!(given >= 2, "{given} tokens");
}

#[test]
fn a_token_is_got_for_a_password_and_a_certificate_is_believed_by_its_authority_only() {
    let (room, base, top) = layers();
    let registry = Registry::open();
    registry.push("disk", "40", "amd64", &[&base, &top]);
    let web = tokens(&registry, "0");
    fs::write(web.file("token"), r#"{"token":"t0ken","expires_in":300}"#).unwrap();
    let address = web.https("disk:40").replace("https://", "docker://");
    let pod = Pod::with_device(SIZE);
    let login = [
        ("IMPORTER_ACCESS_KEY_ID", PULLER),
        ("IMPORTER_SECRET_KEY", PULLER_SECRET),
    ];
    let message = pod.import(1, "registry", &address, &login);
    assert!(
        message.starts_with(PULL) && message.contains("TLS"),
        "{message}"
    );
    fs::create_dir(pod.room.path("certs")).unwrap();
    fs::copy(web.cacert(), pod.room.path("certs/ca.pem")).unwrap();
    let known = ("IMPORTER_CERT_DIR", "/certs");
    let nobody = pod.import(1, "registry", &address, &[known]);
    assert!(nobody.contains("401 Unauthorized"), "{nobody}");
    let all = [login[0], login[1], known];
    assert_eq!(pod.import(0, "registry", &address, &all), DONE);
    assert_same_bytes(&room.path("disk"), &pod.disk());
    let blobs = web
        .served()
        .into_iter()
        .filter(|it| it.path.contains("/blobs/"));
    let parts = blobs.filter(|it| it.status == 206).count();
    assert!(parts > 4, "{parts} parts: layers are read by ranges");
}

#[test]
fn a_layer_that_is_not_what_it_should_be_is_an_error() {
    let (room, base, top) = layers();
    let registry = Registry::open();
    let several = layer(
        &room,
        "several",
        "mkdir disk && echo a > disk/a && echo b > disk/b",
    );
    let linked = layer(
        &room,
        "linked",
        "mkdir disk && ln -s /etc/passwd disk/disk.img",
    );
    let up = room.path("up");
    let script = "import io, sys, tarfile\n\
                  with tarfile.open(sys.argv[1], 'w:gz') as tar:\n\
                  \x20   entry = tarfile.TarInfo('disk/../../up')\n\
                  \x20   entry.size = 1\n\
                  \x20   tar.addfile(entry, io.BytesIO(b'x'))\n";
    run("python3", ["-c", script, &up.display().to_string()]);
    let cut = room.path("cut");
    let whole = fs::read(&top).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let cases: [(&str, &Path, &str); 4] = [
        ("several", &several, "several files below /disk"),
        ("linked", &linked, "no regular file"),
        ("up", &up, "disk/../../up"),
        ("cut", &cut, "cut off"),
    ];
    let pod = Pod::with_device(SIZE);
    for (name, path, part) in cases {
        registry.push(name, "1", "amd64", &[&base, path]);
        let message = pod.import(
            1,
            "registry",
            &registry.address(&format!("{name}:1")),
            &[INSECURE],
        );
        assert!(message.contains(part), "{name}: {message}");
    }
}

/// Somebody in between, or the registry itself, gives other bytes than those that were named.
#[test]
fn what_has_another_digest_than_it_was_named_by_is_refused() {
    let (room, _base, top) = layers();
    let registry = Registry::open();
    registry.push("disk", "1", "amd64", &[&top]);
    let rules = format!(
        "location ~ /manifests/sha256 {{ return 200 '{{\"layers\":[]}}'; }}\n\
         location /v2/ {{ proxy_pass http://127.0.0.1:{}; }}",
        registry.port()
    );
    let between = Web::with(&rules);
    let address = between.https("disk:1").replace("https://", "docker://");
    let pod = Pod::with_device(SIZE);
    let message = pod.import(1, "registry", &address, &[INSECURE]);
    assert!(message.starts_with(PULL), "{message}");
    assert!(message.contains("checksum mismatch"), "{message}");

    // A whole layer, with a disk, and not the one that the image names.
    random_disk(&room.path("other"), SIZE, 63);
    let other = layer(&room, "forged", "mkdir disk && cp ../other disk/disk.img");
    let sum = run("sha256sum", [&top]);
    let digest = format!("sha256:{}", sum.split(' ').next().unwrap());
    registry.forge(&digest, &other);
    let message = pod.import(1, "registry", &registry.address("disk:1"), &[INSECURE]);
    assert!(message.starts_with("Unable to process data: "), "{message}");
    assert!(message.contains("checksum mismatch"), "{message}");
}

#[test]
fn an_image_that_must_be_read_in_any_order_asks_for_scratch_space_and_is_unpacked_there() {
    let (room, _web) = web("");
    random_disk(&room.path("disk"), SIZE, 62);
    let convert = "mkdir disk && qemu-img convert -f raw -O qcow2 ../disk disk/disk.qcow2";
    let top = layer(&room, "top", convert);
    let registry = Registry::open();
    registry.push("disk", "1", "amd64", &[&top]);
    let pod = Pod::with_device(SIZE);
    let address = registry.address("disk:1");
    let message = pod.import(0, "registry", &address, &[INSECURE]);
    assert!(
        message.contains(r#""scratchSpaceRequired":true"#),
        "{message}"
    );
    fs::create_dir(pod.room.path("scratch")).unwrap();
    give_to_pod(&pod.room.path("scratch"));
    assert_eq!(pod.import(0, "registry", &address, &[INSECURE]), DONE);
    assert_same_bytes(&room.path("disk"), &pod.disk());
}
