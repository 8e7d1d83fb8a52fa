//! `--show-samples`: the tokens of some rows, with what is trained on marked.

use config::TrainConfig;
use trainer::{Sources, TrainError};

use crate::format::{counted, grouped, print};
use crate::terminal;

/// Tokens of a row that are shown; of a longer row the ends are.
const SHOWN: usize = 400;

/// Prints the first `rows` rows as tokens.
pub fn show(config: &TrainConfig, sources: &Sources, rows: usize) -> Result<(), TrainError> {
    let samples = trainer::first_rows(config, sources, rows)?;
    let colour = terminal::is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (open, close) = marks(colour);
    print(&format!("what is trained on is marked {open}so{close}; tokens are separated by ·"));
    for (number, pieces) in samples.iter().enumerate() {
        let supervised = pieces.iter().filter(|piece| piece.is_supervised).count();
        print(&format!(
            "\nrow {}: {}, {} trained on",
            number + 1,
            counted(pieces.len() as u64, "token"),
            grouped(supervised as u64)
        ));
        print(&line(pieces, colour));
    }
    Ok(())
}

/// How the beginning and end of what is trained on look.
fn marks(colour: bool) -> (&'static str, &'static str) {
    if colour { ("\u{1b}[1;32m", "\u{1b}[0m") } else { ("⟦", "⟧") }
}

/// A row's tokens, wrapped; marks stand where training begins and ends.
fn line(pieces: &[data::Piece], colour: bool) -> String {
    let (open, close) = marks(colour);
    let mut text = String::new();
    let mut inside = false;
    for (place, piece) in pieces.iter().enumerate() {
        let skipped = pieces.len().saturating_sub(SHOWN);
        if skipped > 0 && (SHOWN / 2..SHOWN / 2 + skipped).contains(&place) {
            if place == SHOWN / 2 {
                text += &format!(
                    "{} … {} left out …",
                    if inside { close } else { "" },
                    counted(skipped as u64, "token")
                );
                inside = false;
            }
            continue;
        }
        if piece.is_supervised != inside {
            text += if inside { close } else { "" };
            text += if place > 0 { "·" } else { "" };
            text += if inside { "" } else { open };
            inside = !inside;
        } else if place > 0 {
            text.push('·');
        }
        text += &piece.text();
    }
    text + if inside { close } else { "" }
}
