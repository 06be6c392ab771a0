"""How well the texts of a page can be read: the contrast of each with what is behind it, as WCAG 2 reckons it."""

from __future__ import annotations

from playwright.sync_api import Locator

from xec_forward.render import SIGNS

# WCAG 2.1, 1.4.3 for text; 1.4.11 for a sign that stands beside its word.
TEXT, SIGN = 4.5, 3.0

# Each visible text below a node, with its contrast. What is half transparent lets through what is behind it.
_MEASURE = r"""root => {
    const rgba = text => {
        const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
        return text.startsWith('color(') ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((value, i) => value * a + below[i] * (1 - a));
    const around = node => node ? [node, ...around(node.parentElement)] : [];
    const behind = node => around(node).reverse().reduce(
        (below, each) => over(rgba(getComputedStyle(each).backgroundColor), below), [255, 255, 255]);
    const light = colour => {
        const [r, g, b] = colour.map(value => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
        if (!text || !node.checkVisibility({ visibilityProperty: true }) || node.closest('style, script, :disabled')) {
            continue;
        }
        const [r, g, b, a] = rgba(getComputedStyle(node).color);
        const opacity = around(node).reduce((all, each) => all * Number(getComputedStyle(each).opacity), 1);
        const ground = behind(node), levels = [light(over([r, g, b, a * opacity], ground)), light(ground)];
        found.push([text, (Math.max(...levels) + 0.05) / (Math.min(...levels) + 0.05)]);
    }
    return found;
}"""


def illegible(place: Locator) -> list[str]:
    """The texts below an element that stand out too little, each with its contrast; it must have some that do."""
    found = [(text, contrast) for text, contrast in place.evaluate(_MEASURE)]
    assert found, "there is no text"
    signs = set(SIGNS.values())
    return [f"{contrast:.1f}: {text}" for text, contrast in found if contrast < (SIGN if text in signs else TEXT)]
