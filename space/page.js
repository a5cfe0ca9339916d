() => {
  // Accessibility that Gradio's components lack: names for screen readers, and keys.
  const PREFIXES = ["", "medical_", "rig_"];
  const SLIDERS = PREFIXES.map((prefix) => `${prefix}slider`);
  const INPUTS = PREFIXES.flatMap((prefix) => [`${prefix}visible`, `${prefix}infrared`]);

  const LIVE = [
    ...PREFIXES.flatMap((prefix) => [`${prefix}time`, `${prefix}message`]),
    ...["batch_message", "flir_message", "flir_text", "clip_message", "clip_text", "volume_message", "volume_text"],
  ];

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
      const edges = left?.startsWith("Edges");
      const names = edges
        ? ["Edges before alignment", "Edges after alignment"]
        : [`Before: ${left?.replace(" and fused", "") || "source"}`, "After: fused"];
      block.querySelectorAll("img[data-testid=imageslider-image]").forEach((image, i) => {
        if (image.alt !== names[i]) image.alt = names[i];
      });
      const handle = block.querySelector("[data-testid=slider]");
      if (!handle || handle.tabIndex === 0) continue;
      handle.tabIndex = 0;
      handle.setAttribute("aria-label", "Line between before and after: move it with the arrow keys");
      handle.addEventListener("keydown", onKey);
    }
    for (const id of LIVE) {
      document.getElementById(id)?.setAttribute("aria-live", "polite");
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
      const field = block.querySelector("input[type=file]");
      if (field?.accept === "image/*") field.accept = "image/*,.tif,.tiff,.pgm,.ppm,.jp2"; // some systems know no type for them
    }
  };

  // Any file may be chosen in a box, since the server says what is wrong with it: Gradio drops files that are no images
  // without a word. The hidden button takes the example out of both boxes, even if the upload fails.
  const asImages = (files) => {
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(new File([file], file.name, { type: "image/any" }));
    return transfer;
  };
  const onFile = (event) => {
    const files = (event.dataTransfer ?? event.target).files;
    const block = files?.length && INPUTS.map((id) => document.getElementById(id)).find((box) => box?.contains(event.target));
    if (!block) return;
    window.chosenFile = files[0];
    document.getElementById(block.id.replace(/visible|infrared/, "chosen")).click();
    if ([...files].every((file) => file.type.startsWith("image/"))) return;
    if (event.type === "change") {
      event.target.files = asImages(files).files;
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation();
    event.target.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: asImages(files) }));
  };
  document.addEventListener("change", onFile, true);
  document.addEventListener(
    "click",
    (event) => {
      const button = event.target.closest?.('button[aria-label="Paste from clipboard"]');
      const block = button && INPUTS.map((id) => document.getElementById(id)).find((box) => box?.contains(button));
      if (block) document.getElementById(block.id.replace(/visible|infrared/, "chosen")).click();
    },
    true,
  );
  document.addEventListener("drop", onFile, true);

  // On a phone the result may be out of sight: scroll to it.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("#fuse, #medical_fuse, #rig_fuse, #flir_run, #clip_run, #volume_run, .examples button");
    if (!button || window.innerWidth > 640) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const slider = button.closest(".tabitem")?.querySelector("#slider, #medical_slider, #rig_slider, #flir_picture, #clip_after, #volume_slices");
    slider?.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  });

  // Both videos of a clip show the same moment.
  const twin = (video) => {
    const videos = document.querySelectorAll("#clip_videos video");
    return [...videos].find((other) => videos.length === 2 && other !== video);
  };
  for (const kind of ["play", "pause", "seeked"]) {
    document.addEventListener(
      kind,
      (event) => {
        const other = event.target.closest?.("#clip_videos") && twin(event.target);
        if (!other) return;
        if (Math.abs(other.currentTime - event.target.currentTime) > 0.05) other.currentTime = event.target.currentTime;
        if (kind === "play" && other.paused) other.play();
        if (kind === "pause" && !other.paused) other.pause();
      },
      true,
    );
  }

  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
}
