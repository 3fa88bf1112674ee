// The pose editor: tools, canvas, keys and prompts around a session. Knows nothing of ComfyUI.

import { Canvas } from "./canvas.js"
import * as geometry from "./geometry.js"
import * as parts from "./parts.js"
import { EXTRAS, Session } from "./session.js"
import { nameOf } from "./skeleton.js"
import * as states from "./state.js"

const el = parts.el
const ZOOM = 1.25 // a press of a key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

export class PoseEditor {
    /**
     * size: () => [width, height] of the canvas; onEdit: called after every edit; resources: a
     * promise of { konva, poses }, poses being the library's OpenPose frames with names.
     */
    constructor({ size, onEdit, resources }) {
        const render = () => this.render()
        this.session = new Session({ size, onEdit, render })
        this.rows = []
        this.build()
        resources.then((found) => this.ready(found), (error) => this.fail(error))
    }

    ready({ konva, poses }) {
        this.canvas.konva = konva
        this.session.setLibrary(poses)
        this.render()
    }

    fail(error) {
        this.session.problem = `the editor could not be loaded (${error.message})`
        this.render()
    }

    arrivedPhoto(image) {
        this.canvas.photo = image
        this.render()
    }

    // the keyboard

    key(event) {
        if (event.altKey) return
        const key = event.key.length === 1 ? event.key.toLowerCase() : event.key
        const name = event.ctrlKey || event.metaKey ? `Ctrl+${key}` : key
        if (this.action(name, event.shiftKey) !== false) event.preventDefault()
    }

    /** Does what the key says; false if it says nothing. */
    action(name, shift) {
        const { session, canvas } = this
        if (ARROWS[name]) return session.nudge(ARROWS[name], shift)
        const actions = {
            "Ctrl+z": () => (shift ? session.redo() : session.undo()),
            "Ctrl+y": () => session.redo(),
            "Ctrl+d": () => session.duplicate(),
            Tab: () => session.nextPerson(shift ? -1 : 1),
            j: () => session.nextJoint(shift ? -1 : 1),
            h: () => session.toggleJoint(),
            l: () => session.setKeep(!session.keep),
            m: () => session.editPerson(geometry.mirrored),
            Delete: () => (session.joint === null ? session.remove() : session.hideJoint()),
            PageUp: () => session.toFront(),
            PageDown: () => session.reorder(0),
            "?": () => this.show(this.help),
            "+": () => canvas.zoom(ZOOM),
            "=": () => canvas.zoom(ZOOM),
            "-": () => canvas.zoom(1 / ZOOM),
            0: () => canvas.fit(),
            Escape: () => this.escape(),
        }
        actions.Backspace = actions.Delete
        return name in actions ? actions[name]() : false
    }

    escape() {
        if (this.panel) return this.show(null)
        const { joint, selected } = this.session
        this.session.select(joint === null ? null : selected)
    }

    // the element

    build() {
        const surface = el("div", { className: "canvas" })
        this.canvas = new Canvas(this.session, surface, () => this.focus())
        const { bar, inputs } = parts.toolbar(this.tools())
        this.inputs = inputs
        // ComfyUI leaves the keyboard to a focused input, above all Ctrl+Z: so the canvas has one
        this.keys = el("input", { className: "keys", readOnly: true, inputMode: "none" })
        this.poses = el("div", { className: "panel", hidden: true })
        this.help = el("div", { className: "panel", hidden: true }, ...parts.help())
        const stage = el("div", { className: "stage" },
            surface, this.keys, this.poses, this.help)
        this.status = el("div", { className: "status", role: "status" })
        const line = el("div", { className: "line" }, this.status, this.slider())
        this.prompts = el("div", { className: "prompts", role: "group", "aria-label": "Prompts" })
        this.element = el("div", { className: "vitruvian-pose", "data-capture-wheel": "true" },
            bar, stage, line, this.prompts)
        this.listen(bar, stage)
    }

    tools() {
        const { session, canvas } = this
        const extra = (name, title) =>
            [name, title, (on) => session.toggleExtra(name, on), "checkbox"]
        const person = [
            ["duplicate", "Duplicate the person (Ctrl+D)", () => session.duplicate()],
            ["remove", "Delete the person (Delete)", () => session.remove()],
            ["mirror", "Mirror the person (M)", () => session.editPerson(geometry.mirrored)],
            ["front", "Bring to the front (Page Up)", () => session.toFront()],
            ["back", "Send to the back (Page Down)", () => session.reorder(0)],
        ]
        const joints = [
            ["lengths", "Keep the lengths of limbs (L)", (on) => session.setKeep(on), "checkbox"],
            ["joint", "Show or hide the joint (H)", () => session.toggleJoint(), "checkbox"],
        ]
        const history = [
            ["undo", "Undo (Ctrl+Z)", () => session.undo()],
            ["redo", "Redo (Ctrl+Shift+Z)", () => session.redo()],
        ]
        const people = [
            ["add", "Add a person", () => this.show(this.poses)],
            ["take", "Take the connected pose (it comes with a run)", () => session.takeGiven()],
        ]
        const view = [
            ["zoomOut", "Zoom out (-)", () => canvas.zoom(1 / ZOOM)],
            ["fit", "Fit the canvas (0)", () => canvas.fit()],
            ["zoomIn", "Zoom in (+)", () => canvas.zoom(ZOOM)],
        ]
        const help = [["help", "Mouse and keys (?)", () => this.show(this.help)]]
        const extras = [extra("hands", "Hands"), extra("feet", "Feet"), extra("face", "Face")]
        return [[history, people, view, help], [person, joints, extras]]
    }

    slider() {
        const input = el("input", {
            type: "range", min: 0, max: 1, step: 0.05, value: this.canvas.opacity,
            title: "How much of the photograph is seen", "aria-label": "Photograph's opacity",
        })
        input.addEventListener("input", () => {
            this.canvas.opacity = Number(input.value)
            this.render()
        })
        this.photoLine = el("label", { className: "photo", hidden: true }, "photograph", input)
        return this.photoLine
    }

    listen(bar, stage) {
        const on = (target, name, handle) => target.addEventListener(name, handle)
        on(this.keys, "keydown", (event) => this.key(event))
        on(this.keys, "focus", () => this.render())
        on(bar, "keydown", (event) => (event.ctrlKey || event.metaKey) && this.key(event))
        on(stage, "keydown", (event) => event.key === "Escape" && this.panel && this.escape())
        on(bar, "click", ({ detail }) => detail && !this.panel && this.focus()) // not by keyboard
        // what happens in the editor is not the graph's business
        for (const name of ["pointerdown", "pointermove", "pointerup", "wheel", "keydown",
            "keyup", "dblclick", "contextmenu", "copy", "paste", "cut"])
            on(this.element, name, (event) => event.stopPropagation())
    }

    show(panel) {
        const open = panel !== this.panel ? panel : null
        if (open === this.poses) open.replaceChildren(...this.shelf())
        for (const one of [this.poses, this.help]) one.hidden = one !== open
        this.panel = open
        if (open) open.querySelector("input")?.focus({ preventScroll: true })
        else this.focus()
    }

    /** The people who can be added; choosing one closes the panel. */
    shelf() {
        return parts.library(this.session.offers(), (source) => {
            this.show(null)
            this.session.add(source)
        })
    }

    /** Gives the canvas the keyboard. */
    focus() {
        this.keys.focus({ preventScroll: true })
    }

    // showing

    render() {
        this.due ??= requestAnimationFrame(() => {
            this.due = null
            this.renderNow()
        })
    }

    renderNow() {
        const { shown } = this.session
        const order = states.leftToRight(shown)
        const numbers = []
        order.forEach((person, i) => (numbers[person] = i + 1))
        const colors = parts.colors(order.length)
        this.canvas.draw(numbers, colors)
        this.renderTools(shown)
        this.renderPrompts(shown, order, colors)
        this.renderStatus(shown, numbers)
    }

    renderTools({ people }) {
        const { inputs, session } = this
        const { person, joint, selected } = session
        const one = person !== undefined
        inputs.undo.disabled = !session.history.past.length
        inputs.redo.disabled = !session.history.future.length
        inputs.take.disabled = !session.given?.people.length
        for (const name of ["duplicate", "remove", "mirror"]) inputs[name].disabled = !one
        inputs.front.disabled = !one || selected === people.length - 1
        inputs.back.disabled = !one || selected === 0
        inputs.lengths.checked = session.keep
        inputs.joint.disabled = !one || joint === null
        inputs.joint.checked = !inputs.joint.disabled && geometry.isKnown(person.points[joint])
        for (const [name, some] of Object.entries(EXTRAS)) {
            inputs[name].disabled = !one
            inputs[name].checked = one && some.some((part) => geometry.hasPart(person, part))
        }
        this.photoLine.hidden = !this.canvas.photo
    }

    /** One row per person, left to right; a row keeps its field while somebody writes in it. */
    renderPrompts({ people }, order, colors) {
        if (this.rows.length !== order.length) {
            this.rows = order.map((_, number) => this.makeRow(number, colors[number]))
            this.prompts.replaceChildren(...this.rows.map(({ row }) => row))
        }
        this.order = order
        this.rows.forEach(({ row, field }, number) => {
            const { prompt } = people[order[number]]
            if (field.value !== prompt) field.value = prompt
            row.classList.toggle("chosen", order[number] === this.session.selected)
        })
    }

    makeRow(number, color) {
        const { session } = this
        const write = (text) => session.setPrompt(this.order[number], text)
        const choose = () =>
            this.order[number] !== session.selected && session.select(this.order[number])
        return parts.promptRow(number + 1, color, write, choose, () => this.focus())
    }

    renderStatus({ people }, numbers) {
        const { person, selected, problem } = this.session
        const count = people.length === 1 ? "1 person" : `${people.length} people`
        const chosen = person ? this.describe(numbers[selected]) : count
        const calm = people.length ? chosen : "Nobody is here: add a person."
        const text = problem ? `${problem}. An edit begins anew.` : calm
        if (this.status.textContent !== text) this.status.textContent = text
        this.status.classList.toggle("wrong", Boolean(problem))
        this.keys.setAttribute("aria-label", `Canvas, ${count}, ${chosen}. Arrows move, Tab ` +
            "chooses the next person, ? shows all keys.")
    }

    /** "person 2: left wrist, hidden" */
    describe(number) {
        const { joint, person } = this.session
        if (joint === null) return `person ${number}`
        const hidden = geometry.isKnown(person.points[joint]) ? "" : ", hidden"
        return `person ${number}: ${nameOf(joint)}${hidden}`
    }
}
