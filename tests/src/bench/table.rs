//! Figures as a person reads them: a table per peer, each with a line that sums it up.

use std::fmt::Write as _;

use super::figure::Figure;

/// The tables, in the order in which peers first appear.
pub fn print(figures: &[Figure]) -> String {
    let mut peers: Vec<Option<&str>> = Vec::new();
    for figure in figures {
        let peer = figure.peer_name.as_deref();
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    let mut text = String::new();
    for peer in peers {
        let rows: Vec<&Figure> = figures.iter().filter(|figure| figure.peer_name.as_deref() == peer).collect();
        one(&mut text, peer, &rows);
    }
    text
}

fn one(text: &mut String, peer: Option<&str>, rows: &[&Figure]) {
    let title = peer.map_or_else(|| "Vireo alone".to_owned(), |peer| format!("Vireo beside {peer}"));
    let mut lines = vec![[title.as_str(), "Vireo", "peer", "ratio", "bound", "met", "runs"].map(str::to_owned)];
    lines.extend(rows.iter().map(|figure| row(figure)));
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (index, line) in lines.iter().enumerate() {
        let [name, cells @ ..] = line;
        let _ = write!(text, "{name:<0$}", widths[0]);
        for (cell, width) in cells.iter().zip(&widths[1..]) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
        if index == 0 {
            let _ = writeln!(text, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
        }
    }
    let aims: Vec<bool> = rows.iter().filter_map(|figure| figure.is_met()).collect();
    let met = aims.iter().filter(|met| **met).count();
    let _ = writeln!(text, "{met} of {} bounds met\n", aims.len());
}

fn row(figure: &Figure) -> [String; 7] {
    let value = |value: f64| format!("{} {}", number(value), figure.unit);
    let dash = || "-".to_owned();
    let bound = figure.bound.map_or_else(dash, |bound| match figure.ratio {
        Some(_) => format!("{bound}"),
        None => value(bound),
    });
    [
        figure.name.clone(),
        value(figure.vireo),
        figure.peer.map_or_else(dash, value),
        figure.ratio.map_or_else(dash, |ratio| format!("{ratio:.3}")),
        bound,
        figure.is_met().map_or_else(dash, |met| if met { "yes" } else { "NO" }.to_owned()),
        figure.runs.to_string(),
    ]
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, print};

    #[test]
    fn each_peer_has_its_table_and_its_sum() {
        let figures = [
            Figure::beside("boot/init", "ms", &[800.0], ("QEMU microvm", &[1600.0]), Some(0.8)),
            Figure::beside("boot/init", "ms", &[800.0], ("QEMU q35", &[2000.0]), None),
            Figure::beside("boot/first_instruction", "ms", &[5.25], ("QEMU microvm", &[10.5]), Some(0.25)),
            Figure::alone("size/vireo-vmm", "KiB", &[2048.0], Some(4096.0)),
        ];
        let text = print(&figures.map(Option::unwrap));
        let expected = "\
Vireo beside QEMU microvm    Vireo     peer  ratio  bound  met  runs
--------------------------------------------------------------------
boot/init                   800 ms  1600 ms  0.500    0.8  yes     1
boot/first_instruction     5.25 ms  10.5 ms  0.500   0.25   NO     1
1 of 2 bounds met

Vireo beside QEMU q35   Vireo     peer  ratio  bound  met  runs
---------------------------------------------------------------
boot/init              800 ms  2000 ms  0.400      -    -     1
0 of 0 bounds met

Vireo alone        Vireo  peer  ratio     bound  met  runs
----------------------------------------------------------
size/vireo-vmm  2048 KiB     -      -  4096 KiB  yes     1
1 of 1 bounds met

";
        assert_eq!(text, expected);
    }
}
