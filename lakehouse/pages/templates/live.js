const sign = document.querySelector('.live'), main = document.querySelector('main');
const texts = within => [...within.children].map(each => each.outerHTML);
let stamp = null, before = texts(main);
function put(old, part) {
  const unfolded = [...old.querySelectorAll('details')].map(each => each.open);
  const moved = [...old.querySelectorAll('.scroll')].map(each => each.scrollLeft);
  old.replaceWith(part);
  part.querySelectorAll('details').forEach((each, place) => { each.open = unfolded[place] || false; });
  part.querySelectorAll('.scroll').forEach((each, place) => { each.scrollLeft = moved[place] || 0; });
}
async function look() {
  try {
    const answer = await fetch(location.pathname, {cache: 'no-cache'});
    if (!answer.ok) throw new Error(answer.status);
    sign.textContent = 'live';
    const modified = answer.headers.get('Last-Modified');
    if (modified === stamp) return;
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const fresh = page.querySelector('main'), after = texts(fresh), parts = [...fresh.children];
    if (after.length !== before.length) main.replaceChildren(...parts);
    else parts.forEach((part, place) => { if (after[place] !== before[place]) put(main.children[place], part); });
    before = after;
    document.title = page.title;
    document.body.className = page.body.className;
    stamp = modified;
  } catch (gone) { sign.textContent = 'its server does not answer'; }
}
if (location.protocol === 'http:') setInterval(look, 1000 * sign.dataset.seconds);
