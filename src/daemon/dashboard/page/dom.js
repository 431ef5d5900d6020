// Elements from plain descriptions, put into the document in place: what stays the same is not
// touched, so that the focus, the place in the page and what is unfolded stay when figures change.
//
// Text only ever becomes text nodes and attributes. Nothing here reads text as markup.

const SVG = 'http://www.w3.org/2000/svg';

// Attributes that could run something, or lead to another host.
const REFUSED = /^(on|style$|src|action$|formaction$)/;
const OWN_LINK = /^#\//;

/// A description: h('a', {href: '#/', key: 1, $open: true}, 'text', ...). A `key` says which of its
/// siblings an element was before; what begins with `$` is set when the element is made, once, as a
/// property.
export function h(tag, props, ...children) {
  const { key, ...rest } = props || {};
  for (const [name, value] of Object.entries(rest)) {
    if (REFUSED.test(name)) throw new Error(`the attribute ${name} is refused`);
    if (name === 'href' && !OWN_LINK.test(value)) throw new Error('a link to elsewhere is refused');
  }
  return { tag, key, props: rest, children: children.flat(Infinity).filter(keep) };
}

const keep = (child) => child !== null && child !== undefined && child !== false && child !== '';

const isText = (wanted) => typeof wanted === 'string' || typeof wanted === 'number';

function make(wanted, parent) {
  if (isText(wanted)) return document.createTextNode(String(wanted));
  const inSvg = wanted.tag === 'svg' || parent.namespaceURI === SVG;
  const node = inSvg
    ? document.createElementNS(SVG, wanted.tag)
    : document.createElement(wanted.tag);
  node.known = { tag: wanted.tag, key: wanted.key, props: {} };
  for (const [name, value] of Object.entries(wanted.props)) {
    if (name.startsWith('$')) node[name.slice(1)] = value;
  }
  return node;
}

function fits(node, wanted) {
  if (isText(wanted)) return node.nodeType === Node.TEXT_NODE;
  return node.known && node.known.tag === wanted.tag && node.known.key === wanted.key;
}

function update(node, wanted) {
  if (isText(wanted)) {
    const text = String(wanted);
    if (node.nodeValue !== text) node.nodeValue = text;
    return;
  }
  const before = node.known.props;
  for (const name of Object.keys(before)) {
    if (!(name in wanted.props)) node.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(wanted.props)) {
    if (name.startsWith('$') || before[name] === value) continue;
    if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.known.props = wanted.props;
  patch(node, wanted.children);
}

/// Makes `children` what is in `parent`.
export function patch(parent, children) {
  const list = [children].flat(Infinity).filter(keep);
  const kept = new Set(list.map((wanted) => wanted.key).filter((key) => key !== undefined));
  const keyed = new Map();
  // What goes, goes first: then nothing that stays has to be moved, which would lose the focus.
  for (const node of [...parent.childNodes]) {
    const key = node.known && node.known.key;
    if (key === undefined) continue;
    if (kept.has(key)) keyed.set(key, node);
    else node.remove();
  }
  let at = parent.firstChild;
  for (const wanted of list) {
    const key = isText(wanted) ? undefined : wanted.key;
    let node = key === undefined ? at : keyed.get(key);
    if (!node || !fits(node, wanted)) node = make(wanted, parent);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    update(node, wanted);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
