// The strip of views beside renders of the same cameras, and the slider between first and refined views.

const find = (id) => document.getElementById(id);

function picture(source, label) {
  const image = new Image();
  image.src = source;
  image.alt = label;
  image.decoding = "async";
  image.draggable = false;
  return image;
}

/**
 * Fills the sections of the views; hides those that the page has nothing for.
 *
 * Returns {onSelect(callback), near(position)}: who is told of a chosen view, and what marks the view that is nearest to a
 * camera's place.
 */
export function buildViews(page) {
  const { cameras, views } = page;
  const strip = find("strip");
  const cells = views.asset.map((render, index) => {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.className = "view";
    const label = cameras[index].label;
    cell.append(picture(views.given[index], `${views.givenName}, ${label}`), picture(render, `Asset, ${label}`));
    const caption = document.createElement("span");
    caption.textContent = label;
    cell.append(caption);
    strip.append(cell);
    return cell;
  });
  find("views").hidden = !cells.length;
  let told = () => {};
  let compare = () => {};
  const select = (index, tell = true) => {
    cells.forEach((cell, other) => cell.setAttribute("aria-pressed", String(other === index)));
    compare(index);
    if (tell) told(index);
  };
  cells.forEach((cell, index) => cell.addEventListener("click", () => select(index)));

  if (views.later) compare = buildSlider(page);
  if (cells.length) select(views.shown, false);

  let marked = -1;
  return {
    onSelect: (callback) => { told = callback; },
    near: (position) => {
      const direction = unit(position.x, position.y, position.z, page.home.target);
      let nearest = -1, most = -2;
      cameras.forEach((camera, index) => {
        const other = unit(...camera.position, page.home.target);
        const cosine = direction[0] * other[0] + direction[1] * other[1] + direction[2] * other[2];
        if (cosine > most) [nearest, most] = [index, cosine];
      });
      if (nearest === marked) return;
      cells[marked]?.classList.remove("near");
      cells[nearest]?.classList.add("near");
      marked = nearest;
    },
  };
}

function unit(x, y, z, [a, b, c]) {
  const length = Math.hypot(x - a, y - b, z - c) || 1;
  return [(x - a) / length, (y - b) / length, (z - c) / length];
}

/** The slider; the result shows another view in it. */
function buildSlider({ cameras, views }) {
  find("refinement").hidden = false;
  const slider = find("slider");
  const box = find("compare");
  const [before, after] = [find("before"), find("after")];
  const move = () => box.style.setProperty("--cut", `${slider.value}%`);
  slider.addEventListener("input", move);
  move();
  return (index) => {
    before.src = views.given[index];
    after.src = views.later[index];
    before.alt = `First drawing, ${cameras[index].label}`;
    after.alt = `After refinement, ${cameras[index].label}`;
    find("compared").textContent = cameras[index].label;
  };
}
