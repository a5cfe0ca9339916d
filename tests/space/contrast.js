// Texts below an element that stand out from their ground by less than WCAG asks: 4.5 to 1, large ones and
// signs without letters 3 to 1.
// Buttons that are disabled do not count.
(element) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };

  const luminance = (colour) => {
    const [red, green, blue] = colour
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };

  const groundOf = (start) => {
    for (let node = start; node; node = node.parentElement) {
      const colour = channels(getComputedStyle(node).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };

  const pale = [];
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const parent = walker.currentNode.parentElement;
    const style = getComputedStyle(parent);
    const size = parseFloat(style.fontSize);
    const seen = parent.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (!text || !size || !seen || parent.closest("script, style") || parent.closest("button")?.disabled) continue;
    const ends = [luminance(channels(style.color)), luminance(groundOf(parent))].sort((a, b) => a - b);
    const ratio = (ends[1] + 0.05) / (ends[0] + 0.05);
    const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700) || !/[\p{L}\p{N}]/u.test(text);
    if (ratio < (large ? 3 : 4.5)) pale.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return pale;
}
