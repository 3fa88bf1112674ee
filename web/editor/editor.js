// The pose editor: tools, canvas, keys and prompts around a session. Knows nothing of ComfyUI.

import { Canvas } from "./canvas.js"
import * as geometry from "./geometry.js"
import * as parts from "./parts.js"
import { EXTRAS, Session } from "./session.js"
import { nameOf } from "./skeleton.js"
import * as states from "./state.js"

const el = parts.el
const ZOOM = 1.25 // a press of a key
const LOCKED = "The input people is connected: its people are used. Disconnect it to edit here."
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

export class PoseEditor {
    /**
     * size: () => [width, height] of the canvas; onEdit: called after every edit, with whether more
     * of the same is coming; undo, redo: take edits back; isLocked: () => whether edits would be in
     * vain; resources: a promise of { konva, poses }, poses being the library's OpenPose frames with
     * names.
     */
    constructor({ size, onEdit, undo, redo, isLocked, resources }) {
        const render = () => this.render()
        this.session = new Session({ size, onEdit, render })
        this.takeBack = { undo, redo }
        this.isLocked = isLocked
        this.rows = []
        this.leftAt = -Infinity
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

    /** Who is chosen, the view and what came with a run: what the saved text does not hold. */
    get memory() {
        const { selected, joint, keep, given } = this.session
        const { view, fits, photo, opacity } = this.canvas
        return { session: { selected, joint, keep, given }, canvas: { view, fits, photo, opacity } }
    }

    set memory({ session, canvas }) {
        Object.assign(this.session, session)
        Object.assign(this.canvas, canvas)
        if (!this.session.person) this.session.select(null)
        this.render()
    }

    // the keyboard

    /** What the editor does not use goes on to ComfyUI: its shortcuts, and undo and redo. */
    key(event) {
        if (event.altKey || event.target === this.slide || event.target.tagName === "TEXTAREA") return
        if (this.action(event) === false) return
        event.preventDefault()
        event.stopPropagation()
    }

    /** Does what the key says; false if it says nothing. */
    action(event) {
        const { session, canvas } = this
        const { shiftKey: shift, repeat } = event
        const key = event.key.length === 1 ? event.key.toLowerCase() : event.key
        const name = `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${key}`
        const shifted = {
            Tab: () => event.target === canvas.element && session.nextPerson(shift ? -1 : 1),
            j: () => session.nextJoint(shift ? -1 : 1),
            Delete: () => (session.joint === null ? session.remove() : session.hideJoint()),
            "?": () => this.show(this.help),
            "+": () => canvas.zoom(ZOOM),
            "=": () => canvas.zoom(ZOOM),
        }
        const plain = {
            "Ctrl+d": () => session.duplicate(),
            h: () => session.toggleJoint(),
            l: () => session.setKeep(!session.keep),
            m: () => session.editPerson(geometry.mirrored),
            PageUp: () => session.toFront(),
            PageDown: () => session.reorder(0),
            "-": () => canvas.zoom(1 / ZOOM),
            0: () => canvas.fit(),
            Escape: () => this.escape(),
        }
        shifted.Backspace = shifted.Delete
        for (const [arrow, direction] of Object.entries(ARROWS))
            shifted[arrow] = () => session.nudge(direction, shift, repeat)
        const actions = shift ? shifted : { ...shifted, ...plain }
        if (!(name in actions)) return false
        if (this.panel && !["Escape", "?"].includes(name)) return name === "Tab" ? false : undefined
        return actions[name]()
    }

    /** Lets go of what is on top: a panel, a drag, the joint, the person. */
    escape() {
        if (this.panel) return this.show(null)
        if (this.canvas.letGo() !== false) return
        const { joint, selected } = this.session
        if (selected === null) return false
        this.session.select(joint === null ? null : selected)
    }

    // the element

    build() {
        const surface = el("div", { className: "canvas", tabIndex: 0, role: "application" })
        this.canvas = new Canvas(this.session, surface, () => this.focus())
        const { bar, buttons } = parts.toolbar(this.tools())
        this.buttons = buttons
        this.poses = el("div", { className: "panel", hidden: true })
        this.help = el("div", { className: "panel", hidden: true }, ...parts.help())
        const stage = el("div", { className: "stage" }, surface, this.poses, this.help)
        this.status = el("div", { className: "status", role: "status" })
        const line = el("div", { className: "line" }, this.status, this.slider())
        this.prompts = el("div", { className: "prompts", role: "group", "aria-label": "Prompts" })
        this.element = el("div", { className: "vitruvian-pose", "data-capture-wheel": "true" },
            bar, stage, line, this.prompts)
        this.lockable = [bar, stage, this.prompts]
        this.listen(bar)
    }

    tools() {
        const { session, canvas } = this
        const extra = (name, title) =>
            [name, title, (on) => session.toggleExtra(name, on), "switch"]
        const person = [
            ["duplicate", "Duplicate the person (Ctrl+D)", () => session.duplicate()],
            ["remove", "Delete the person (Delete)", () => session.remove()],
            ["mirror", "Mirror the person (M)", () => session.editPerson(geometry.mirrored)],
            ["front", "Bring to the front (Page Up)", () => session.toFront()],
            ["back", "Send to the back (Page Down)", () => session.reorder(0)],
        ]
        const joints = [
            ["lengths", "Limbs bend and keep their lengths; off: free points (L)", (on) => session.setKeep(on), "switch"],
            ["joint", "Show or hide the joint (H)", () => session.toggleJoint(), "switch"],
        ]
        const history = [
            ["undo", "Undo (Ctrl+Z)", () => this.takeBack.undo()],
            ["redo", "Redo (Ctrl+Shift+Z)", () => this.takeBack.redo()],
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
        input.addEventListener("pointerup", () => this.focus())
        this.slide = input
        this.photoLine = el("label", { className: "photo", hidden: true }, "photograph", input)
        return this.photoLine
    }

    listen(bar) {
        const on = (target, name, handle) => target.addEventListener(name, handle)
        on(this.element, "keydown", (event) => this.key(event))
        on(this.canvas.element, "focus", () => this.render())
        on(this.element, "focusout", () => (this.leftAt = performance.now()))
        on(bar, "click", ({ detail }) => detail && !this.panel && this.focus()) // not by keyboard
        // what pointers do in the editor is not the graph's business
        for (const name of ["pointerdown", "pointermove", "pointerup", "wheel", "dblclick", "contextmenu"])
            on(this.element, name, (event) => event.stopPropagation())
    }

    show(panel) {
        const open = panel !== this.panel ? panel : null
        if (open === this.poses) open.replaceChildren(...this.shelf())
        for (const one of [this.poses, this.help]) one.hidden = one !== open
        this.panel = open
        if (open) open.querySelector("button")?.focus({ preventScroll: true })
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
        this.canvas.element.focus({ preventScroll: true })
    }

    /** When the editor last had the keyboard, on the page's clock in ms. */
    get lastFocused() {
        return this.element.contains(document.activeElement) ? performance.now() : this.leftAt
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
        const locked = this.isLocked()
        for (const part of this.lockable) part.inert = locked
        this.element.classList.toggle("locked", locked)
        this.canvas.draw(numbers, colors)
        this.renderTools(shown)
        this.renderPrompts(shown, order, colors)
        this.renderStatus(shown, numbers, locked)
    }

    renderTools({ people }) {
        const { buttons, session } = this
        const { person, joint, selected } = session
        const one = person !== undefined
        const press = (name, on) => buttons[name].setAttribute("aria-pressed", on)
        buttons.take.disabled = !session.given?.people.length
        for (const name of ["duplicate", "remove", "mirror"]) buttons[name].disabled = !one
        buttons.front.disabled = !one || selected === people.length - 1
        buttons.back.disabled = !one || selected === 0
        press("lengths", session.keep)
        buttons.joint.disabled = !one || joint === null
        press("joint", !buttons.joint.disabled && geometry.isKnown(person.points[joint]))
        for (const [name, some] of Object.entries(EXTRAS)) {
            buttons[name].disabled = !one
            press(name, one && some.some((part) => geometry.hasPart(person, part)))
        }
        this.slide.value = this.canvas.opacity
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

    renderStatus({ people }, numbers, locked) {
        const { person, selected, problem, notice } = this.session
        const count = people.length === 1 ? "1 person" : `${people.length} people`
        const chosen = person ? this.describe(numbers[selected]) : count
        const calm = people.length ? chosen : "Nobody is here: add a person."
        const text = locked ? LOCKED : problem ? `${problem}. An edit begins anew.` : (notice ?? calm)
        if (this.status.textContent !== text) this.status.textContent = text
        this.status.classList.toggle("wrong", locked || Boolean(problem))
        this.canvas.element.setAttribute("aria-label", `Canvas, ${count}, ${chosen}. Arrows move, Tab ` +
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
