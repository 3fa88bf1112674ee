// The canvas: its view, its drawing surface, and the pointers on it.

import { draw } from "./drawing.js"
import * as geometry from "./geometry.js"
import { handles, hit } from "./hits.js"
import { dragged } from "./limbs.js"
import { POINTS } from "./skeleton.js"
import { gridStep, magnets, snapped } from "./snapping.js"
import * as states from "./state.js"

const CLICK = 3 // px a pointer may tremble without dragging
const SNAP = Math.PI / 12
const SHARPNESS = 2 // pixels per px: still sharp when the graph is zoomed in
const LIMITS = { least: 0.05, most: 40 } // of the zoom
const SPEED = { wheel: 0.0015, pinch: 0.01 } // of zooming, per px of the wheel

export class Canvas {
    /** element: where it is drawn; focus: gives the canvas the keyboard. */
    constructor(session, element, focus) {
        this.session = session
        this.element = element
        this.focus = focus
        this.view = { x: 0, y: 0, scale: 1 }
        this.fits = true // the view follows the canvas until somebody zooms
        this.photo = null
        this.photoFile = null // that of a connected Load Image, as text
        this.spaceHeld = false // then a drag moves the view
        this.opacity = 0.6
        this.pointers = new Map()
        const on = (name, handle, options) => element.addEventListener(name, handle, options)
        on("pointerdown", (event) => this.pressed(event))
        on("pointermove", (event) => this.moved(event))
        on("pointerup", (event) => this.released(event))
        on("pointercancel", (event) => this.lost(event))
        on("pointerleave", () => session.hover(null))
        on("lostpointercapture", (event) => this.lost(event))
        on("wheel", (event) => this.wheeled(event), { passive: false })
        on("contextmenu", (event) => event.preventDefault())
        new ResizeObserver(() => session.render()).observe(element)
    }

    // the view

    toCanvas([x, y]) {
        return [(x - this.view.x) / this.view.scale, (y - this.view.y) / this.view.scale]
    }

    fit() {
        this.fits = true
        this.session.render()
    }

    placeView() {
        const { width, height } = this.session.shown
        const [w, h] = [this.element.clientWidth, this.element.clientHeight]
        const scale = Math.max(0.01, Math.min((w - 20) / width, (h - 20) / height))
        this.view = { scale, x: (w - scale * width) / 2, y: (h - scale * height) / 2 }
    }

    zoom(factor, [x, y] = [this.element.clientWidth / 2, this.element.clientHeight / 2]) {
        const scale = Math.min(LIMITS.most, Math.max(LIMITS.least, this.view.scale * factor))
        const grow = scale / this.view.scale
        this.view = { scale, x: x - (x - this.view.x) * grow, y: y - (y - this.view.y) * grow }
        this.fits = false
        this.session.render()
    }

    pan(dx, dy) {
        this.view = { ...this.view, x: this.view.x + dx, y: this.view.y + dy }
        this.fits = false
        this.session.render()
    }

    // the pointers

    /** Where an event is in the element, in its own px; ComfyUI scales widgets with the graph. */
    place(event) {
        const box = this.element.getBoundingClientRect()
        const scale = this.element.clientWidth / (box.width || 1)
        return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale]
    }

    pressed(event) {
        if (event.button > 1) return
        event.preventDefault() // keeps the focus where the next line puts it
        this.focus()
        this.element.setPointerCapture(event.pointerId)
        const at = this.place(event)
        this.pointers.set(event.pointerId, at)
        this.session.draft = null
        this.panning = event.button === 1 || this.spaceHeld
        this.drag = this.pointers.size > 1 || this.panning ? null : this.grasp(at)
    }

    moved(event) {
        const before = this.pointers.get(event.pointerId)
        const at = this.place(event)
        if (!before) return this.hover(at)
        const others = [...this.pointers].filter(([id]) => id !== event.pointerId)
        this.pointers.set(event.pointerId, at)
        if (others.length) this.pinch(before, at, others[0][1])
        else if (this.panning) this.pan(at[0] - before[0], at[1] - before[1])
        else if (this.holds() && this.hasLeft(at)) this.pull(before, at, event.shiftKey)
    }

    /** Whether a drag goes on, and what it began with is still there. */
    holds() {
        if (this.drag && this.drag.state !== this.session.state) this.letGo()
        return Boolean(this.drag)
    }

    /** Ends a drag as if it had never begun; false if there is none. */
    letGo() {
        if (!this.drag) return false
        this.drag = null
        this.session.draft = null
        this.session.render()
    }

    /** The pointer was taken away, as when a window opens: no drag ends where it was. */
    lost({ pointerId }) {
        if (!this.pointers.delete(pointerId)) return
        this.panning = false
        this.letGo()
    }

    /** Whether this drag is one, and not the trembling of a click. */
    hasLeft(at) {
        const { drag } = this
        drag.dragged ||= Math.hypot(at[0] - drag.at[0], at[1] - drag.at[1]) >= CLICK
        return drag.dragged
    }

    released(event) {
        if (!this.pointers.delete(event.pointerId)) return
        const drag = this.holds() ? this.drag : null
        const { draft } = this.session
        this.drag = null
        this.panning = false
        if (draft) this.session.edit(draft)
        else if (drag?.kind === "nothing" && !drag.dragged) this.session.select(null)
    }

    under(at) {
        return hit(this.session, at, this.view.scale)
    }

    hover(at) {
        const found = this.under(this.toCanvas(at))
        const cursors = {
            corner: ["nwse-resize", "nesw-resize"][found.corner % 2], stalk: "grab",
            joint: "pointer", person: "move", nothing: "default",
        }
        this.element.style.cursor = this.spaceHeld ? "grab" : cursors[found.kind]
        this.session.hover(found.person ?? null)
    }

    /** Selects what is under the pointer; returns what a drag from there begins with. */
    grasp(at) {
        const from = this.toCanvas(at)
        const found = this.under(from)
        if (found.kind === "joint") this.session.select(found.person, found.joint)
        if (found.kind === "person") this.session.select(found.person)
        const { state, shown: base, target } = this.session
        return { ...found, at, from, state, base, target }
    }

    pull(before, at, inSteps) {
        const { drag } = this
        if (drag.kind === "nothing") return this.pan(at[0] - before[0], at[1] - before[1])
        const person = drag.base.people[this.session.selected]
        const changed = this.pulled(drag, person, this.toCanvas(at), inSteps)
        this.session.draft = states.withPerson(drag.base, this.session.selected, changed)
        this.session.render()
    }

    pulled({ kind, joint, corner, from, target }, person, to, inSteps) {
        const [dx, dy] = [to[0] - from[0], to[1] - from[1]]
        if (kind === "joint") {
            const [x, y] = person.points[joint]
            const { keep, person: before } = this.session
            const place = this.resting(joint, [x + dx, y + dy])
            return dragged(person, joint, place, { keep, before, planted: inSteps })
        }
        if (kind === "person") return geometry.shifted(person, dx, dy)
        const { corners } = handles(person, target, this.view.scale)
        const center = [(corners[0][0] + corners[2][0]) / 2, (corners[0][1] + corners[2][1]) / 2]
        if (kind === "corner") {
            // a face grows where it is, on its head
            const still = target.length < POINTS ? center : corners[(corner + 2) % 4]
            const length = ([x, y]) => Math.hypot(x - still[0], y - still[1])
            return geometry.scaled(person, still, Math.max(0.05, length(to) / length(from)), target)
        }
        const angle = ([x, y]) => Math.atan2(y - center[1], x - center[0])
        const turn = angle(to) - angle(from)
        const steps = inSteps ? Math.round(turn / SNAP) * SNAP : turn
        return geometry.rotated(person, center, steps, target)
    }

    /** Where a dragged joint comes to rest, if snapping is on. */
    resting(joint, point) {
        const { snaps, grid, selected } = this.session
        if (!snaps) return point
        const { base } = this.drag
        const step = grid ? gridStep(base) : 0
        return snapped(point, magnets(base, selected, joint), step, this.view.scale)
    }

    pinch(before, at, other) {
        const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1])
        this.drag = null
        this.session.draft = null
        this.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2)
        this.zoom(apart(at) / Math.max(1, apart(before)),
            [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2])
    }

    wheeled(event) {
        event.preventDefault()
        const speed = event.ctrlKey ? SPEED.pinch : SPEED.wheel // trackpads send pinches with Ctrl
        this.zoom(Math.exp(-event.deltaY * speed), this.place(event))
    }

    // drawing

    draw(numbers, colors) {
        const { photo, opacity } = this
        const { shown: state, selected, joint, target, hovered, grid } = this.session
        if (this.fits) this.placeView()
        if (!this.setStage()) return
        const chosen = { selected, joint, target, hovered }
        const look = { state, numbers, colors, photo, opacity, grid, view: this.view }
        draw(this.konva, this.layer, { ...look, ...chosen })
    }

    /** Makes the drawing surface as large as its element; false while there is none. */
    setStage() {
        const [width, height] = [this.element.clientWidth, this.element.clientHeight]
        if (!this.konva || !width || !height || !this.element.isConnected) return false
        if (!this.stage) {
            this.stage = new this.konva.Stage({ container: this.element, width, height })
            this.layer = new this.konva.Layer({ listening: false })
            this.stage.add(this.layer)
            this.layer.getCanvas().setPixelRatio(Math.max(SHARPNESS, window.devicePixelRatio))
        }
        if (this.stage.width() !== width || this.stage.height() !== height)
            this.stage.size({ width, height })
        return true
    }

    /** Frees the drawing surface; it comes back when the element is shown again. */
    dispose() {
        this.stage?.destroy()
        this.stage = null
    }
}
