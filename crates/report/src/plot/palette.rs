//! Colours: those of Okabe and Ito (2008), which people with any form of colour blindness can tell apart, and the greys
//! around them; each with a lighter form for a dark page.

use std::fmt::Write;

use plotters::style::RGBColor;

/// A colour by its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// Text.
    Text,
    /// Axis names and what is less important.
    Muted,
    /// Lines of the grid.
    Grid,
    /// The page.
    Surface,
    /// The n-th curve or kind of bar.
    Series(usize),
}

/// For a light page and a dark one.
struct Pair {
    light: (u8, u8, u8),
    dark: (u8, u8, u8),
}

const TEXT: Pair = Pair { light: (0x1f, 0x23, 0x28), dark: (0xe6, 0xe8, 0xeb) };
const MUTED: Pair = Pair { light: (0x5f, 0x68, 0x74), dark: (0x9a, 0xa4, 0xb0) };
const GRID: Pair = Pair { light: (0xe3, 0xe6, 0xea), dark: (0x2f, 0x35, 0x3d) };
const SURFACE: Pair = Pair { light: (0xff, 0xff, 0xff), dark: (0x18, 0x1c, 0x21) };

/// Blue, vermillion, bluish green, orange, reddish purple, sky blue, grey.
const SERIES: [Pair; 7] = [
    Pair { light: (0x00, 0x72, 0xb2), dark: (0x3d, 0x9b, 0xe0) },
    Pair { light: (0xd5, 0x5e, 0x00), dark: (0xf0, 0x7f, 0x2e) },
    Pair { light: (0x00, 0x9e, 0x73), dark: (0x1f, 0xbf, 0x92) },
    Pair { light: (0xe6, 0x9f, 0x00), dark: (0xf2, 0xb8, 0x3a) },
    Pair { light: (0xcc, 0x79, 0xa7), dark: (0xdd, 0x93, 0xbd) },
    Pair { light: (0x56, 0xb4, 0xe9), dark: (0x8c, 0xcf, 0xf5) },
    Pair { light: (0x8a, 0x93, 0x9f), dark: (0xb4, 0xbb, 0xc4) },
];

impl Ink {
    fn pair(self) -> &'static Pair {
        match self {
            Self::Text => &TEXT,
            Self::Muted => &MUTED,
            Self::Grid => &GRID,
            Self::Surface => &SURFACE,
            Self::Series(at) => &SERIES[at % SERIES.len()],
        }
    }

    /// Whether this is a curve for which a colour is used a second time, and which is dashed therefore.
    pub(crate) fn is_repeated(self) -> bool {
        matches!(self, Self::Series(at) if at >= SERIES.len())
    }

    /// As the drawing library takes it: the form for a light page.
    pub(crate) fn rgb(self) -> RGBColor {
        let (red, green, blue) = self.pair().light;
        RGBColor(red, green, blue)
    }

    /// As `#rrggbb`, for a light page.
    pub(crate) fn hex(self) -> String {
        hex(self.pair().light)
    }
}

/// Rules by which a dark page shows drawings made for a light one: a style rule is stronger than an attribute.
pub(crate) fn theme_css(scope: &str) -> String {
    let mut css = String::new();
    for pair in [&TEXT, &MUTED, &GRID, &SURFACE].into_iter().chain(&SERIES) {
        let (light, dark) = (hex(pair.light), hex(pair.dark));
        let _ = write!(
            css,
            "{scope} [stroke=\"{light}\"]{{stroke:{dark}}}{scope} [fill=\"{light}\"]{{fill:{dark}}}"
        );
    }
    css
}

/// As the SVG library writes it.
fn hex((red, green, blue): (u8, u8, u8)) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}
