//! Events of a migration in sentences for people. Pure.

use super::{Event, amount};
use std::time::Duration;

/// One sentence, if it is an event of a migration.
pub(super) fn sentence(event: &Event) -> Option<String> {
    Some(match event {
        Event::Phase {
            vm,
            phase,
            point,
            why,
        } => {
            let why = why.as_ref().map(|why| format!(": {why}"));
            let why = why.unwrap_or_default();
            match point {
                0 => format!("{vm}: {phase}{why}"),
                point => format!("{vm}: {phase}, point {point}{why}"),
            }
        }
        Event::Pass { .. } => pass(event)?,
        Event::Forecast { .. } => forecast(event)?,
        Event::Hook {
            hook,
            code,
            elapsed,
            ..
        } => {
            let code = code.map_or("a signal".to_owned(), |code| format!("code {code}"));
            format!("hook {hook}: ended with {code} after {}", span(*elapsed))
        }
        Event::TrackingLost {
            disk,
            point,
            why,
            for_good,
        } => {
            let long = if *for_good {
                " and every later one"
            } else {
                ""
            };
            format!(
                "disk {disk}, point {point}: TRACKING LOST: {why}; in this pass{long} all of the \
                 disk is read, and what differs is written"
            )
        }
        Event::Migrated { .. } => migrated(event)?,
        _ => return None,
    })
}

fn pass(event: &Event) -> Option<String> {
    let Event::Pass {
        point,
        pass,
        changed,
        read,
        copying,
        expected_bytes,
        expected_copying,
    } = event
    else {
        return None;
    };
    let moved = amount::bytes(changed.unwrap_or(*read));
    let expected = expected_bytes.zip(*expected_copying);
    let was = expected
        .map(|(bytes, time)| format!(" (forecast: {} in {})", amount::bytes(bytes), span(time)));
    Some(format!(
        "point {point}: {pass} pass durable: {moved} in {}{}",
        span(*copying),
        was.unwrap_or_default()
    ))
}

fn forecast(event: &Event) -> Option<String> {
    let Event::Forecast {
        dirty_rate,
        throughput,
        outage,
        margin,
        advice,
    } = event
    else {
        return None;
    };
    let rate = |rate: &Option<u64>| match rate {
        Some(rate) => format!("{}/s", amount::bytes(*rate)),
        None => "not known yet".to_owned(),
    };
    let (changes, through) = (rate(dirty_rate), rate(throughput));
    let mut text = format!("changes: {changes}; throughput: {through}");
    if let (Some(outage), Some(margin)) = (outage, margin) {
        let outage = span(*outage);
        text.push_str(&format!("; cut over now: down for {outage} ± {margin} %"));
    }
    if let Some(advice) = advice {
        text.push_str(&format!("; {advice}"));
    }
    Some(text)
}

fn migrated(event: &Event) -> Option<String> {
    let Event::Migrated {
        vm,
        certificate,
        outage,
        expected_outage,
    } = event
    else {
        return None;
    };
    let down = outage.map(|outage| format!(", down for {}", span(outage)));
    let was = expected_outage.map(|was| format!(" (forecast: {})", span(was)));
    Some(format!(
        "{vm}: migrated{}{}; certificate {certificate}",
        down.unwrap_or_default(),
        was.unwrap_or_default()
    ))
}

fn span(seconds: f64) -> String {
    amount::seconds(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Event, sentence};

    #[test]
    fn a_pass_is_told_with_what_was_forecast_of_it() {
        let pass = Event::Pass {
            point: 3,
            pass: "delta".to_owned(),
            changed: Some(3 << 20),
            read: 4 << 20,
            copying: 2.5,
            expected_bytes: Some(2 << 20),
            expected_copying: Some(2.0),
        };
        let text = "point 3: delta pass durable: 3.0 MiB in 2.5 s (forecast: 2.0 MiB in 2.0 s)";
        assert_eq!(sentence(&pass).as_deref(), Some(text));
        assert_eq!(sentence(&Event::Verify { bytes: 1 }), None);
    }
}
