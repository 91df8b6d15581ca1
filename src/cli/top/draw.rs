//! Role: a snapshot as lines of text, and as a screen.
//! Owns: nothing.
//! Implements: `fulmar top --help`.

use super::source::{File, Session, Snapshot, Status};
use crate::cli::text;
use crate::units;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

/// Columns of the table of sessions: heading, least width, what is in it.
type Column = (&'static str, u16, fn(&Session) -> String);

const COLUMNS: [Column; 9] = [
    ("#", 4, |s| s.session.to_string()),
    ("PEER", 22, |s| match s.client_id.as_str() {
        "" => text::one_line(&s.remote),
        id => format!("{} ({})", text::one_line(&s.remote), text::one_line(id)),
    }),
    ("REQUEST", 18, |s| text::one_line(&format!("{} {}", s.request, s.path))),
    ("DONE", 5, |s| match s.file_bytes_total {
        0 => "-".into(),
        total => format!("{:.0} %", 100.0 * s.file_bytes_done as f64 / total as f64),
    }),
    ("RATE", 13, |s| units::format_rate(s.in_bits_per_sec.max(s.out_bits_per_sec))),
    ("LOSS", 7, |s| format!("{:.1} %", s.loss_in_pct.max(s.loss_out_pct))),
    ("RTT", 8, |s| ms(s.rtt_ms)),
    ("QUEUE", 8, |s| ms(s.queue_ms)),
    ("AGE", 8, |s| age(s.age_s)),
];

/// Finished files that are shown.
const SHOWN_FILES: usize = 8;

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"))
}

fn age(seconds: f64) -> String {
    let s = seconds as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02}", s / 60, s % 60),
        _ => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
    }
}

/// The three lines above the sessions.
fn head(s: &Snapshot) -> [String; 3] {
    let refused: u64 = s.refusals.iter().map(|(_, n)| n).sum();
    let (done, failed) = (
        s.counters.files_received.done + s.counters.files_sent.done,
        s.counters.files_received.failed + s.counters.files_sent.failed,
    );
    [
        format!(
            "fulmar {} on {}, up {}",
            text::one_line(&s.version),
            text::one_line(&s.listen),
            age(s.uptime_s)
        ),
        format!(
            "in {}  out {}  loss in {:.1} %  out {:.1} %",
            units::format_rate(s.rates.in_bits_per_sec),
            units::format_rate(s.rates.out_bits_per_sec),
            s.rates.loss_in_pct,
            s.rates.loss_out_pct
        ),
        format!(
            "{} now, {} in all, {} broken off; {} done, {failed} failed; {} turned away; {}; {} in, {} out",
            text::plural(s.sessions_now, "session"),
            text::count(s.counters.sessions),
            text::count(s.counters.sessions_failed),
            text::plural(done, "file"),
            text::count(refused),
            text::plural(s.counters.packets_repaired, "repair"),
            units::format_bytes(s.counters.wire_bytes_received),
            units::format_bytes(s.counters.wire_bytes_sent),
        ),
    ]
}

fn file_line(s: &Snapshot, f: &File) -> String {
    let what = match (f.is_failed, f.is_sent) {
        (true, _) => "failed",
        (_, true) => "sent",
        _ => "stored",
    };
    let ago = age((s.uptime_s - f.at_s as f64).max(0.0));
    let size = units::format_bytes(f.bytes);
    format!("{ago:>8} ago  #{:<4} {what:<6}  {size:>10}  {}", f.session, text::one_line(&f.path))
}

/// Everything as text.
pub(super) fn lines(s: &Snapshot) -> Vec<String> {
    let mut lines: Vec<String> = head(s).into();
    let row = |cell: &dyn Fn(&Column) -> String| {
        let mut line = String::new();
        for column in &COLUMNS {
            let width = usize::from(column.1);
            line.push_str(&format!("{:<width$}  ", cell(column)));
        }
        line.trim_end().to_owned()
    };
    if !s.sessions.is_empty() {
        lines.push(row(&|column| column.0.to_owned()));
        lines.extend(s.sessions.iter().map(|session| row(&|column| (column.2)(session))));
    }
    lines.extend(s.files.iter().take(SHOWN_FILES).map(|f| file_line(s, f)));
    lines
}

/// Everything as a screen.
pub(super) fn screen(frame: &mut Frame<'_>, status: &Status) {
    let s = &status.snapshot;
    let files = s.files.len().min(SHOWN_FILES) as u16;
    let heights = [
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Min(3),
        Constraint::Length(if files > 0 { files + 1 } else { 0 }),
        Constraint::Length(1),
    ];
    let [top, plot, sessions, newest, bottom] = Layout::vertical(heights).areas(frame.area());
    let [name, rates, sums] = head(s);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(vec![Line::styled(name, bold), rates.into(), sums.into()]), top);

    let halves: [_; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(plot);
    let received: Vec<u64> = status.history.iter().map(|(received, _)| *received).collect();
    let sent: Vec<u64> = status.history.iter().map(|(_, sent)| *sent).collect();
    for (area, (what, values, colour)) in
        halves.into_iter().zip([("received", received, Color::Blue), ("sent", sent, Color::Yellow)])
    {
        // The newest are what fits.
        let newest = &values[values.len().saturating_sub(usize::from(area.width))..];
        let most = newest.iter().copied().max().unwrap_or(0);
        let title = format!("{what}, up to {}", units::format_rate(most));
        let bars = Sparkline::default().data(newest).style(Style::new().fg(colour));
        frame.render_widget(bars.block(Block::new().title(title)), area);
    }

    let heading = Row::new(COLUMNS.map(|column| Cell::from(column.0))).style(bold);
    let rows = s.sessions.iter().map(|session| Row::new(COLUMNS.map(|column| (column.2)(session))));
    let widths = COLUMNS.map(|(name, width, _)| match name {
        "PEER" | "REQUEST" => Constraint::Fill(1),
        _ => Constraint::Length(width),
    });
    frame.render_widget(Table::new(rows, widths).header(heading).column_spacing(1), sessions);

    let mut text: Vec<Line<'_>> = vec![Line::styled("NEWEST FILES", bold)];
    text.extend(s.files.iter().take(SHOWN_FILES).map(|f| {
        let colour = if f.is_failed { Style::new().fg(Color::Red) } else { Style::new() };
        Line::from(Span::styled(file_line(s, f), colour))
    }));
    frame.render_widget(Paragraph::new(text), newest);
    let (last, style) = match &status.trouble {
        Some(why) => (text::one_line(why), Style::new().fg(Color::Red)),
        None => ("q: end".to_owned(), Style::new().add_modifier(Modifier::DIM)),
    };
    frame.render_widget(Paragraph::new(last).style(style), bottom);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn status() -> Status {
        let session = Session {
            session: 3,
            remote: "192.0.2.7:4242".into(),
            client_id: "lab\x1b[2J".into(),
            request: "put".into(),
            path: "/in".into(),
            age_s: 75.0,
            file_bytes_done: 50,
            file_bytes_total: 200,
            in_bits_per_sec: 40_000_000,
            loss_in_pct: 5.04,
            rtt_ms: Some(61.25),
            ..Session::default()
        };
        let file = File { path: "a\nb.iso".into(), bytes: 1 << 20, is_failed: true, ..File::default() };
        let snapshot = Snapshot {
            version: "0.1.0".into(),
            listen: "[::]:5770".into(),
            uptime_s: 3700.0,
            sessions_now: 1,
            refusals: vec![("busy".into(), 2), ("wrong_key".into(), 3)],
            sessions: vec![session],
            files: vec![file],
            ..Snapshot::default()
        };
        Status { snapshot, history: vec![(1, 2); 500], trouble: Some("lost it".into()) }
    }

    #[test]
    fn text_names_everything_and_nothing_drives_the_terminal() {
        let lines = lines(&status().snapshot);
        assert_eq!(lines[0], "fulmar 0.1.0 on [::]:5770, up 1:01:40");
        assert!(lines[2].contains("1 session now") && lines[2].contains("5 turned away"), "{}", lines[2]);
        let session = &lines[4];
        for word in
            ["192.0.2.7:4242 (lab\\u{1b}[2J)", "put /in", "25 %", "40.0 Mbit/s", "5.0 %", "61.2 ms", "1:15"]
        {
            assert!(session.contains(word), "{word} is not in {session}");
        }
        assert!(lines[5].contains("failed") && lines[5].contains("1.0 MiB") && lines[5].ends_with("a b.iso"));
        assert!(lines.iter().all(|line| !line.contains('\x1b')));
    }

    #[test]
    fn the_screen_fits_where_it_can_and_survives_where_it_cannot() {
        for (width, height) in [(100, 30), (40, 12), (10, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
            terminal.draw(|frame| screen(frame, &status())).expect("drawn");
            if width == 100 {
                let shown: String =
                    terminal.backend().buffer().content().iter().map(|c| c.symbol()).collect();
                for word in
                    ["192.0.2.7:4242", "put /in", "25 %", "lost it", "NEWEST FILES", "received, up to"]
                {
                    assert!(shown.contains(word), "{word} is not shown");
                }
            }
        }
    }
}
