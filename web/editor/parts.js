// The pieces of the editor's face: tools, the list of keys, prompts.

import { icon } from "./icons.js"
import { SOMEBODY } from "./state.js"
import { say } from "./words.js"

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
        type: "button", className: "tool", title, "aria-label": title.replace(/ ?[(（].*[)）]$/, ""),
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
        buttons[name] = tool(icon(name), say(title), type, onUse)
        buttons[name].dataset.tool = name
        return buttons[name]
    }
    const makeGroup = (group) => el("div", { className: "group" }, ...group.map(makeTool))
    const makeRow = (row) => el("div", { className: "row" }, ...row.map(makeGroup))
    const bar = el("div", { className: "bar", role: "toolbar", "aria-label": say("Pose tools") },
        ...rows.map(makeRow))
    return { bar, buttons }
}

const KEYS = [
    ["Drag a hand or foot", "bends the limb; an elbow or a knee turns it; fingers by their tips"],
    ["Drag hips or a shoulder", "moves the person (Shift: over its feet); leans the trunk"],
    ["Drag neck or face", "turns the head"],
    ["Drag a limb or the box", "moves the person; corners scale, the knob turns (Shift: in steps)"],
    ["Drag the ground", "moves the view, as the middle button or Space with a drag; " +
        "wheel or two fingers zoom"],
    ["Drop, Ctrl+V", "a pose (JSON), an image with a pose in it, or a photograph to pose over"],
    ["Tab, Shift+Tab, 1 to 9", "next or previous person, person by number"],
    ["A, P", "the poses; the person's prompt"],
    ["C", "copies the person as text, to paste with Ctrl+V"],
    ["J, Shift+J", "next or previous joint"],
    ["Arrows", "nudge the joint or the person; Shift: ten times as far"],
    ["H", "hides or shows the joint"],
    ["L", "limbs bend and keep their lengths, or points are free"],
    ["M", "mirrors the person"],
    ["D, Shift+D", "turns the person in depth"],
    ["B", "bends the limb the other way"],
    ["K, O, R, N", "next hand or foot; its next pose; turns it; mirrors it (Shift: back)"],
    ["Ctrl+D", "duplicates the person"],
    ["Delete", "hides the joint; without a chosen joint deletes the person"],
    ["Page Up, Page Down", "brings to the front, to the back"],
    ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo, as everywhere in the graph"],
    ["[ ], comma, period", "turn the person; smaller, larger"],
    ["T", "takes the connected pose"],
    ["+, -, 0", "zoom in, out, fit"],
    ["G, S, F", "grid, snapping, full screen"],
    ["Esc", "takes back a drag; lets go of the joint, then of the person"],
]

export function help() {
    const rows = KEYS.flatMap(([key, meaning]) =>
        [el("dt", { textContent: say(key) }), el("dd", { textContent: say(meaning) })])
    return [el("h4", { textContent: say("Mouse and keys") }), el("dl", {}, ...rows)]
}

/** A person's prompt: number in their color, field; onHover says whether it is pointed at. */
export function promptRow(number, color, { onText, onFocus, onDone, onHover }) {
    const title = say("Prompt of person <n> from the left", { n: number })
    const empty = say("Person <n>: left empty, “<somebody>”", { n: number, somebody: SOMEBODY })
    const says = { placeholder: empty, title, "aria-label": title }
    const field = el("textarea", { spellcheck: false, ...says })
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
    row.addEventListener("pointerenter", () => onHover(true))
    row.addEventListener("pointerleave", () => onHover(false))
    return { row, field }
}

/** Colors of n people: the hues that Instance Preview gives them, softer for the screen. */
export const colors = (n) =>
    Array.from({ length: n }, (_, k) => `hsl(${(360 * k) / Math.max(3, n)} 85% 68%)`)
