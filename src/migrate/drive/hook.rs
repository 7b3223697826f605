//! The user's commands.

use super::scene::{Scene, interrupted};
use crate::error::{Error, Kind, Result};
use crate::migrate::command;
use crate::migrate::phase::{Event, Hook, State};
use crate::pipeline::Stop;
use crate::report;
use std::time::Instant;

/// Runs the command of a hook.
///
/// # Errors
/// It failed, took too long, or `halt` came; then it was killed.
pub(super) async fn run(scene: &Scene, state: &State, hook: Hook, mut halt: Stop) -> Result<Event> {
    let Some(command) = scene.plan.command(hook) else {
        return Ok(Event::HookDone);
    };
    let name = name(hook);
    let env = [
        ("DISKFERRY_VM", scene.plan.vm.clone()),
        ("DISKFERRY_HOOK", name.to_owned()),
        ("DISKFERRY_POINT", state.point.to_string()),
        ("DISKFERRY_PASS", state.kind.name().to_owned()),
        (
            "DISKFERRY_STATE",
            scene.book.directory().display().to_string(),
        ),
    ];
    let began = Instant::now();
    let said = tokio::select! {
        said = command::run(&command.words, &env, command.timeout) => said,
        () = halt.requested() => return Err(interrupted()),
    };
    let said = said.map_err(|error| error.context(format!("hook {name}")))?;
    let output = format!("{}{}", said.stdout, said.stderr);
    tracing::info!(hook = name, code = ?said.code, output, "a hook has run");
    scene.tell(&report::Event::Hook {
        hook: name.to_owned(),
        code: said.code,
        elapsed: began.elapsed().as_secs_f64(),
        output,
    });
    match said.code {
        Some(0) => Ok(Event::HookDone),
        code => {
            let code = code.map_or("a signal".to_owned(), |code| format!("code {code}"));
            let what = format!("hook {name}: its command ended with {code}");
            Err(Error::new(Kind::Io, what).because(said.complaint().to_owned()))
        }
    }
}

/// As in the plan.
fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::BeforeSnapshot => "before-snapshot",
        Hook::AfterSnapshot => "after-snapshot",
        Hook::BeforeCutover => "before-cutover",
        Hook::AfterCutover => "after-cutover",
        Hook::Done => "done",
    }
}
