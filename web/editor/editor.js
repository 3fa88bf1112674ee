// The pose editor: tools, canvas, keys and prompts around a session. Knows nothing of ComfyUI.

import { Canvas } from "./canvas.js"
import * as geometry from "./geometry.js"
import { looksLikePose, readFile, readText } from "./importing.js"
import { Library, frameOf } from "./library.js"
import { LimbTools } from "./limb_tools.js"
import * as parts from "./parts.js"
import { EXTRAS, Session } from "./session.js"
import { nameOf } from "./skeleton.js"
import * as states from "./state.js"
import { UserPoses } from "./user_poses.js"
import { say } from "./words.js"

const el = parts.el
const ZOOM = 1.25 // a press of a key
const TURN = Math.PI / 36 // a press of a key
const GROW = 1.05
const LOCKED = "The input people is connected: its people are used. Disconnect it to edit here."
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

export class PoseEditor {
    /**
     * size: () => [width, height] of the canvas; onEdit: called after every edit, with whether more
     * of the same is coming; undo, redo: take edits back; isLocked: () => whether edits would be in
     * vain; resources: a promise of { konva, poses }, poses being the library's OpenPose frames
     * with names; outside: { files, readPose, putPhoto }: where the artist's poses are kept, and
     * what reads foreign poses and puts a photograph behind the canvas.
     */
    constructor({ size, onEdit, undo, redo, isLocked, resources, outside }) {
        const render = () => this.render()
        this.session = new Session({ size, onEdit, render })
        this.takeBack = { undo, redo }
        this.isLocked = isLocked
        this.outside = outside
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
        const { message } = error
        this.session.problem = say("the editor could not be loaded (<message>)", { message })
        this.render()
    }

    arrivedPhoto(image) {
        this.canvas.photo = image
        this.render()
    }

    /** Who is chosen, the view and what came with a run: what the saved text does not hold. */
    get memory() {
        const { selected, joint, limb, keep, given } = this.session
        const { view, fits, photo, photoFile, opacity } = this.canvas
        const canvas = { view, fits, photo, photoFile, opacity }
        return { session: { selected, joint, limb, keep, given }, canvas }
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
        const { tagName } = event.target
        const writes = tagName === "INPUT" && !(event.key === "Escape" && this.panel)
        if (event.altKey || writes || tagName === "TEXTAREA") return
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
            ...this.limbTools.keys(shift ? -1 : 1, repeat),
            "+": () => canvas.zoom(ZOOM),
            "=": () => canvas.zoom(ZOOM),
        }
        const plain = {
            "Ctrl+d": () => session.duplicate(),
            " ": () => event.target === canvas.element && (canvas.spaceHeld = true),
            a: () => this.show(this.poses),
            p: () => this.rows[this.order.indexOf(session.selected)]?.field.focus(),
            c: () => this.copy(),
            t: () => session.takeGiven(),
            g: () => session.switchGrid(),
            s: () => session.switchSnaps(),
            f: () => this.switchFullScreen(),
            "[": () => this.turn(-TURN),
            "]": () => this.turn(TURN),
            ",": () => this.grow(1 / GROW),
            ".": () => this.grow(GROW),
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
        for (const digit of "123456789")
            plain[digit] = () => digit - 1 in this.order && session.select(this.order[digit - 1])
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

    /** The middle of the box around the selected person. */
    center() {
        const { left, right, top, bottom } = geometry.bounds(this.session.person)
        return [(left + right) / 2, (top + bottom) / 2]
    }

    turn(angle) {
        this.session.editPerson((person) => geometry.rotated(person, this.center(), angle), true)
    }

    grow(factor) {
        this.session.editPerson((person) => geometry.scaled(person, this.center(), factor), true)
    }

    switchFullScreen() {
        if (document.fullscreenElement) return void document.exitFullscreen()
        this.element.requestFullscreen?.().catch((error) => this.tell(error.message))
    }

    // what comes from outside

    /** Says something until the next edit. */
    tell(text) {
        this.session.notice = text
        this.render()
    }

    /** Copies the selected person, or everybody, as an OpenPose frame. */
    copy() {
        const { shown, person } = this.session
        const text = JSON.stringify(frameOf(shown, person ? [person] : shown.people))
        const put = (event) => {
            event.clipboardData.setData("text/plain", text)
            event.preventDefault()
            event.stopImmediatePropagation()
        }
        // also where pages may not use the clipboard otherwise: without https
        document.addEventListener("copy", put, { capture: true, once: true })
        if (!document.execCommand("copy")) document.removeEventListener("copy", put, true)
        else this.tell(say("copied: paste with Ctrl+V, here or in a text"))
    }

    pasted(event) {
        const text = event.clipboardData?.getData("text/plain") ?? ""
        if (["TEXTAREA", "INPUT"].includes(event.target.tagName) || !looksLikePose(text)) return
        event.preventDefault()
        event.stopPropagation()
        this.receive(async () => ({ states: await readText(text, this.outside.readPose) }))
    }

    dropped(event) {
        event.preventDefault()
        event.stopPropagation()
        this.receiveFiles([...(event.dataTransfer?.files ?? [])])
    }

    async receiveFiles(files) {
        for (const file of files)
            await this.receive(() => readFile(file, this.outside.readPose), file.name)
    }

    /** Adds the people of what `read` reads, or puts its photograph behind the canvas. */
    async receive(read, name = say("pasted")) {
        if (this.isLocked()) return
        if (this.panel) this.show(null)
        try {
            const { states: frames, photo } = await read()
            if (photo) {
                await this.outside.putPhoto(photo)
                return this.tell(say(
                    "photograph is behind the canvas; Detect Pose finds its people"))
            }
            if (!frames.length) throw new Error(say("there is nobody in it"))
            this.session.receive(frames[0])
            if (frames.length > 1) this.tell(say("the first of <n> frames", { n: frames.length }))
        } catch (error) {
            this.tell(`${name}: ${error.message}`)
        }
    }

    // the element

    build() {
        const surface = el("div", { className: "canvas", tabIndex: 0, role: "application" })
        this.canvas = new Canvas(this.session, surface, () => this.focus())
        const { bar, buttons } = parts.toolbar(this.tools())
        this.buttons = buttons
        this.library = new Library(this.session, new UserPoses(this.outside.files), {
            onChosen: () => this.show(null), onFiles: (files) => this.receiveFiles(files),
        })
        this.poses = this.library.element
        this.help = el("div", { className: "panel", hidden: true }, ...parts.help())
        const stage = el("div", { className: "stage" }, surface, this.poses, this.help)
        this.limbTools = new LimbTools(this.session, () => this.focus())
        const limbs = this.limbTools.element
        this.status = el("div", { className: "status", role: "status" })
        const line = el("div", { className: "line" }, this.status, this.slider())
        const label = { "aria-label": say("Prompts") }
        this.prompts = el("div", { className: "prompts", role: "group", ...label })
        this.element = el("div", { className: "vitruvian-pose", "data-capture-wheel": "true" },
            bar, stage, limbs, line, this.prompts)
        this.lockable = [bar, stage, limbs, this.prompts]
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
            ["lengths", "Limbs bend and keep their lengths; off: free points (L)",
                (on) => session.setKeep(on), "switch"],
            ["joint", "Show or hide the joint (H)", () => session.toggleJoint(), "switch"],
        ]
        const history = [
            ["undo", "Undo (Ctrl+Z)", () => this.takeBack.undo()],
            ["redo", "Redo (Ctrl+Shift+Z)", () => this.takeBack.redo()],
        ]
        const people = [
            ["add", "Add a person (A)", () => this.show(this.poses)],
            ["take", "Take the connected pose (T): it comes with a run", () => session.takeGiven()],
        ]
        const view = [
            ["zoomOut", "Zoom out (-)", () => canvas.zoom(1 / ZOOM)],
            ["fit", "Fit the canvas (0)", () => canvas.fit()],
            ["zoomIn", "Zoom in (+)", () => canvas.zoom(ZOOM)],
            ["grid", "Grid (G)", () => session.switchGrid(), "switch"],
            ["snaps", "Snap to joints and to the grid (S)", () => session.switchSnaps(), "switch"],
            ["fullScreen", "Full screen (F)", () => this.switchFullScreen()],
        ]
        const help = [["help", "Mouse and keys (?)", () => this.show(this.help)]]
        const extras = [extra("hands", "Hands"), extra("feet", "Feet"), extra("face", "Face")]
        return [[history, people, view, help], [person, joints, extras]]
    }

    slider() {
        const input = el("input", {
            type: "range", min: 0, max: 1, step: 0.05, value: this.canvas.opacity,
            title: say("How much of the photograph is seen"),
            "aria-label": say("Photograph's opacity"),
        })
        input.addEventListener("input", () => {
            this.canvas.opacity = Number(input.value)
            this.render()
        })
        input.addEventListener("pointerup", () => this.focus())
        this.slide = input
        this.photoLine = el("label", { className: "photo", hidden: true }, say("photograph"), input)
        return this.photoLine
    }

    listen(bar) {
        const on = (target, name, handle) => target.addEventListener(name, handle)
        on(this.element, "keydown", (event) => this.key(event))
        on(this.element, "keyup", ({ key }) => key === " " && (this.canvas.spaceHeld = false))
        on(this.element, "paste", (event) => this.pasted(event))
        on(this.element, "drop", (event) => this.dropped(event))
        for (const name of ["dragenter", "dragover"]) on(this.element, name, (event) => {
            event.preventDefault()
            event.stopPropagation()
        })
        on(this.canvas.element, "focus", () => this.render())
        on(this.canvas.element, "blur", () => (this.canvas.spaceHeld = false))
        on(this.element, "focusout", () => (this.leftAt = performance.now()))
        on(bar, "click", ({ detail }) => detail && !this.panel && this.focus()) // not by keyboard
        // what pointers do in the editor is not the graph's business
        const pointers = ["pointerdown", "pointermove", "pointerup", "wheel", "dblclick"]
        for (const name of [...pointers, "contextmenu"])
            on(this.element, name, (event) => event.stopPropagation())
    }

    show(panel) {
        const open = panel !== this.panel ? panel : null
        for (const one of [this.poses, this.help]) one.hidden = one !== open
        this.panel = open
        this.element.classList.toggle("browsing", Boolean(open))
        if (open === this.poses) this.library.open()
        if (open) open.querySelector("input, button")?.focus({ preventScroll: true })
        else this.focus()
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
        this.limbTools.render()
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
        press("grid", session.grid)
        press("snaps", session.snaps)
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
            row.classList.toggle("hovered", order[number] === this.session.hovered)
        })
    }

    makeRow(number, color) {
        const { session } = this
        const write = (text) => session.setPrompt(this.order[number], text)
        const choose = () =>
            this.order[number] !== session.selected && session.select(this.order[number])
        return parts.promptRow(number + 1, color, {
            onText: write, onFocus: choose, onDone: () => this.focus(),
            onHover: (inside) => session.hover(inside ? this.order[number] : null),
        })
    }

    renderStatus({ people }, numbers, locked) {
        const { person, selected, problem, notice } = this.session
        const count = say(people.length === 1 ? "1 person" : "<n> people", { n: people.length })
        const chosen = person ? this.describe(numbers[selected]) : count
        const calm = people.length ? chosen : say("Nobody is here: add a person.")
        const wrong = problem && say("<problem>. An edit begins anew.", { problem })
        const text = locked ? say(LOCKED) : wrong || (notice ?? calm)
        if (this.status.textContent !== text) this.status.textContent = text
        this.status.classList.toggle("wrong", locked || Boolean(problem))
        this.canvas.element.setAttribute("aria-label", `${say("Canvas")}, ${count}, ${chosen}. ` +
            say("Arrows move, Tab chooses the next person, ? shows all keys."))
    }

    /** "person 2: left wrist, hidden" */
    describe(number) {
        const { joint, person } = this.session
        const who = say("person <n>", { n: number })
        if (joint === null) return who
        const hidden = geometry.isKnown(person.points[joint]) ? "" : `, ${say("hidden")}`
        return `${who}: ${nameOf(joint)}${hidden}`
    }
}
