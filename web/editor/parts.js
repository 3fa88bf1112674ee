// The pieces of the editor's face: tools, the library of poses, the list of keys, prompts.

import { bounds, isKnown } from "./geometry.js"
import { icon } from "./icons.js"
import { LIMBS } from "./skeleton.js"
import { SOMEBODY } from "./state.js"

/** An element with these properties (attributes where the name has a dash) and children. */
export function el(tag, properties = {}, ...children) {
    const made = document.createElement(tag)
    for (const [name, value] of Object.entries(properties))
        name.includes("-") ? made.setAttribute(name, value) : (made[name] = value)
    made.append(...children)
    return made
}

/**
 * A tool: a button with an icon. A "switch" is on or off, as its aria-pressed says. Buttons and not
 * inputs, because ComfyUI leaves Ctrl+Z to a focused input, and here it is to undo in the graph.
 */
export function tool(image, title, type, onUse, caption = "") {
    const button = el("button", {
        type: "button", className: "tool", title, "aria-label": title.replace(/ \(.*\)$/, ""),
    })
    button.innerHTML = image
    button.append(caption)
    const isOn = () => button.getAttribute("aria-pressed") === "true"
    button.addEventListener("click", () => (type === "switch" ? onUse(!isOn()) : onUse()))
    return button
}

/** Rows of groups of tools; returns the bar and the buttons by their names. */
export function toolbar(rows) {
    const buttons = {}
    const makeTool = ([name, title, onUse, type = "button"]) => {
        buttons[name] = tool(icon(name), title, type, onUse)
        buttons[name].dataset.tool = name
        return buttons[name]
    }
    const makeGroup = (group) => el("div", { className: "group" }, ...group.map(makeTool))
    const makeRow = (row) => el("div", { className: "row" }, ...row.map(makeGroup))
    const bar = el("div", { className: "bar", role: "toolbar", "aria-label": "Pose tools" },
        ...rows.map(makeRow))
    return { bar, buttons }
}

/** A person as a small image. */
function thumbnail({ people: [person], width, height }) {
    const { left, right, top, bottom } = bounds(person)
    const side = Math.max(right - left, bottom - top, 1) * 1.1
    const [x, y] = [(left + right - side) / 2, (top + bottom - side) / 2]
    const lines = LIMBS.map(([a, b], i) => {
        const [from, to] = [person.points[a], person.points[b]]
        if (!isKnown(from) || !isKnown(to)) return ""
        const ends = `x1="${from[0]}" y1="${from[1]}" x2="${to[0]}" y2="${to[1]}"`
        return `<line ${ends} stroke="hsl(${20 * i} 90% 45%)" stroke-width="${side / 30}"/>`
    })
    return `<svg viewBox="${x} ${y} ${side} ${side}" aria-hidden="true">${lines.join("")}</svg>`
}

/** The library: entries { name, state } as tiles. */
export function library(entries, onChoose) {
    const tiles = entries.map(({ name, state }) =>
        tool(thumbnail(state), `Add: ${name}`, "button", () => onChoose(state), name))
    return [el("h4", { textContent: "Add a person" }), el("div", { className: "poses" }, ...tiles)]
}

const KEYS = [
    ["Drag a hand or foot", "bends the limb; an elbow or a knee turns it; fingers by their tips"],
    ["Drag hips or a shoulder", "moves the person (Shift: over its feet); leans the trunk"],
    ["Drag neck or face", "turns the head"],
    ["Drag a limb or the box", "moves the person; corners scale, the knob turns (Shift: in steps)"],
    ["Drag the ground", "moves the view; wheel or two fingers zoom"],
    ["Tab, Shift+Tab", "next or previous person"],
    ["J, Shift+J", "next or previous joint"],
    ["Arrows", "nudge the joint or the person; Shift: ten times as far"],
    ["H", "hides or shows the joint"],
    ["L", "limbs bend and keep their lengths, or points are free"],
    ["M", "mirrors the person"],
    ["Ctrl+D", "duplicates the person"],
    ["Delete", "hides the joint; without a chosen joint deletes the person"],
    ["Page Up, Page Down", "brings to the front, to the back"],
    ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo, as everywhere in the graph"],
    ["+, -, 0", "zoom in, out, fit"],
    ["Esc", "takes back a drag; lets go of the joint, then of the person"],
]

export function help() {
    const rows = KEYS.flatMap(([key, meaning]) =>
        [el("dt", { textContent: key }), el("dd", { textContent: meaning })])
    return [el("h4", { textContent: "Mouse and keys" }), el("dl", {}, ...rows)]
}

/** A person's prompt: number in their color, field. */
export function promptRow(number, color, onText, onFocus, onDone) {
    const field = el("textarea", {
        placeholder: `Person ${number}: left empty, “${SOMEBODY}”`, spellcheck: false,
        title: `Prompt of person ${number} from the left`,
        "aria-label": `Prompt of person ${number} from the left`,
    })
    field.addEventListener("input", () => onText(field.value))
    field.addEventListener("focus", onFocus)
    field.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || !["Enter", "Escape"].includes(event.key)) return
        event.preventDefault() // a prompt is one line
        event.stopPropagation()
        onDone()
    })
    const row = el("label", { className: "prompt" }, el("span", { textContent: number }), field)
    row.style.setProperty("--person", color)
    return { row, field }
}

/** Colors of n people: the hues that Instance Preview gives them, softer for the screen. */
export const colors = (n) =>
    Array.from({ length: n }, (_, k) => `hsl(${(360 * k) / Math.max(3, n)} 85% 68%)`)
