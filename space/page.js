() => {
  // Accessibility that Gradio's components lack: names for screen readers, and keys.
  const SLIDERS = ["slider", "medical_slider"];
  const INPUTS = ["visible", "infrared", "medical_visible", "medical_infrared"];

  const labelOf = (block) => block.querySelector("[data-testid=block-label]")?.innerText.trim() ?? "";

  // The slider only reacts to dragging, so arrow keys drag it.
  const drag = (handle, shift) => {
    const grip = handle.querySelector(".inner");
    const box = grip.getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const send = (target, type, at) =>
      target.dispatchEvent(new MouseEvent(type, { view: window, bubbles: true, cancelable: true, clientX: at, clientY: y }));
    send(grip, "mousedown", x);
    send(window, "mousemove", x + shift);
    send(window, "mouseup", x + shift);
  };

  const onKey = (event) => {
    const width = event.currentTarget.closest(".wrap").getBoundingClientRect().width;
    const shift = { ArrowLeft: -0.05, ArrowRight: 0.05, Home: -1, End: 1 }[event.key];
    if (shift === undefined) return;
    event.preventDefault();
    drag(event.currentTarget, shift * width);
  };

  const mend = () => {
    for (const id of SLIDERS) {
      const block = document.getElementById(id);
      if (!block) continue;
      const left = document.querySelector(`#${id.replace("slider", "left")} label.selected`)?.innerText.trim();
      const names = [`Before: ${left || "source"}`, "After: fused"];
      block.querySelectorAll("img[data-testid=imageslider-image]").forEach((image, i) => {
        if (image.alt !== names[i]) image.alt = names[i];
      });
      const handle = block.querySelector("[data-testid=slider]");
      if (!handle || handle.tabIndex === 0) continue;
      handle.tabIndex = 0;
      handle.setAttribute("aria-label", "Line between before and after: move it with the arrow keys");
      handle.addEventListener("keydown", onKey);
    }
    for (const id of INPUTS) {
      const block = document.getElementById(id);
      if (!block) continue;
      const label = labelOf(block);
      const drop = block.querySelector("button[aria-dropeffect]");
      if (drop && drop.dataset.named !== label) {
        drop.dataset.named = label;
        drop.setAttribute("aria-label", `${label}: drop an image file here or click to upload`);
      }
      block.querySelectorAll("img").forEach((image) => {
        if (!image.alt) image.alt = label;
      });
    }
  };

  // On a phone the result is above the buttons: scroll to it.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("#fuse, #medical_fuse, .examples button");
    if (!button || window.innerWidth > 640) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const slider = button.closest(".tabitem")?.querySelector("#slider, #medical_slider");
    slider?.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  });

  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
}
