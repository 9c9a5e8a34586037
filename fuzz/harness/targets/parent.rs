//! What the name of a parent may be.

use instar_parsers::image::Blocks;

/// There is a parent, its name leads to a file beside the image, and it is known which content it has.
///
/// # Panics
/// One of these does not hold.
pub fn check_beside(image: &dyn Blocks) {
    let name = &image.facts().backing.as_ref().expect("a parent").name;
    let is_name = !name.is_empty() && !name.starts_with(b"/") && !name.iter().any(|&byte| matches!(byte, 0 | b':'));
    assert!(is_name, "leads elsewhere: {name:?}");
    assert!(!image.parent_identities().is_empty(), "a parent of any content");
}
