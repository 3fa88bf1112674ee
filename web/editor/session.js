// What is being edited: the state with its history, and who is chosen. Nothing here is drawn.

import * as geometry from "./geometry.js"
import { grabbable } from "./hits.js"
import { POINTS, indices, partOf } from "./skeleton.js"
import * as states from "./state.js"

const EVERYTHING = Array.from({ length: POINTS }, (_, i) => i)
/** Parts of a person that can be shown or left out. */
export const EXTRAS = { hands: ["leftHand", "rightHand"], feet: ["feet"], face: ["face"] }

export class Session {
    /**
     * size: () => [width, height] of the canvas; onEdit: called when the text has changed; render:
     * called when something else is to be seen.
     */
    constructor({ size, onEdit, render }) {
        this.size = size
        this.onEdit = onEdit
        this.render = render
        this.text = "" // as saved; empty while nobody was edited
        this.history = states.begun({ width: 512, height: 512, people: [], untouched: true })
        this.draft = null // what a drag has made so far
        this.selected = null // place in the list of people
        this.joint = null
        this.keep = true // lengths
        this.library = [] // { name, state } each
        this.given = null // the state of the connected pose
        this.problem = null // what is wrong with the text
    }

    // the saved text

    get value() {
        return this.text
    }

    set value(text) {
        if (text === this.text) return this.render()
        this.text = text ?? ""
        this.draft = null
        this.joint = null
        this.load()
    }

    /** Begins anew from the text. */
    load() {
        let state = null
        this.problem = null
        try {
            state = states.parse(this.text)
        } catch (error) {
            this.problem = error.message
        }
        this.history = states.begun(state ? this.complete(state) : this.untouched())
        this.selected = this.history.state.people.length ? 0 : null
        this.render()
    }

    untouched() {
        const [width, height] = this.size()
        const standing = this.library[0]?.state ?? { width, height, people: [] }
        return { ...standing, untouched: true }
    }

    /** Points without a place get one, so that they can be shown. */
    complete(state) {
        const model = this.library[0]?.state.people[0]
        if (!model) return state
        return { ...state, people: state.people.map((p) => geometry.completed(p, model)) }
    }

    /** The library: OpenPose frames with names, the standing person first. */
    setLibrary(frames) {
        this.library = frames.map((frame) => ({ name: frame.name, state: states.fromFrame(frame) }))
        if (!this.history.past.length) this.load()
    }

    // editing

    /** What is shown: on the canvas of the node's width and height. */
    get shown() {
        return this.draft ?? states.fitted(this.history.state, ...this.size())
    }

    get person() {
        return this.shown.people[this.selected]
    }

    /** The points that the box holds: the face alone while a point of it is chosen. */
    get target() {
        return this.joint !== null && partOf(this.joint) === "face" ? indices("face") : EVERYTHING
    }

    edit(state, tag = null) {
        this.go(states.edited(this.history, { ...state, untouched: false }, tag, Date.now()))
    }

    /** edit, of the selected person. */
    editPerson(change, tag = null) {
        if (!this.person) return
        this.edit(states.withPerson(this.shown, this.selected, change(this.person)), tag)
    }

    go(history) {
        this.history = history
        this.draft = null
        const { state } = history
        this.text = state.untouched ? "" : states.serialize(state)
        this.problem = null
        if (!state.people[this.selected]) this.select(state.people.length ? 0 : null)
        this.render()
        this.onEdit()
    }

    undo() {
        if (this.history.past.length) this.go(states.undone(this.history))
    }

    redo() {
        if (this.history.future.length) this.go(states.redone(this.history))
    }

    select(person, joint = null) {
        this.selected = person
        this.joint = joint
        this.render()
    }

    setKeep(keep) {
        this.keep = keep
        this.render()
    }

    add(source) {
        const state = states.withNew(this.shown, states.welcomed(this.shown, source))
        this.selected = state.people.length - 1
        this.joint = null
        this.edit(state)
    }

    duplicate() {
        if (!this.person) return
        const copy = geometry.shifted(this.person, this.shown.width / 16, 0)
        const state = states.withNew(this.shown, copy)
        this.selected = state.people.length - 1
        this.joint = null
        this.edit(state)
    }

    remove() {
        if (!this.person) return
        const state = states.without(this.shown, this.selected)
        const last = state.people.length - 1
        this.selected = last < 0 ? null : Math.min(this.selected, last)
        this.joint = null
        this.edit(state)
    }

    reorder(to) {
        if (!this.person || to === this.selected) return
        const state = states.reordered(this.shown, this.selected, to)
        this.selected = to
        this.edit(state)
    }

    toFront() {
        this.reorder(this.shown.people.length - 1)
    }

    /** Shows the joint, or hides it unless it is the person's last. */
    toggleJoint() {
        if (!this.person || this.joint === null) return
        const known = geometry.isKnown(this.person.points[this.joint])
        if (known && this.person.points.filter(geometry.isKnown).length === 1) return
        this.editPerson((person) => geometry.withKnown(person, [this.joint], !known))
    }

    hideJoint() {
        if (this.person && geometry.isKnown(this.person.points[this.joint])) this.toggleJoint()
    }

    toggleExtra(name, wanted) {
        const change = wanted ? geometry.withPart : geometry.withoutPart
        if (this.joint !== null && EXTRAS[name].includes(partOf(this.joint))) this.joint = null
        this.editPerson((person) => EXTRAS[name].reduce(change, person))
    }

    nudge([dx, dy], far) {
        if (!this.person) return
        const step = far ? 10 : 1
        const tag = `nudge ${this.selected} ${this.joint}`
        this.editPerson((person) => {
            if (this.joint === null) return geometry.shifted(person, dx * step, dy * step)
            const [x, y] = person.points[this.joint]
            return geometry.dragged(person, this.joint, [x + dx * step, y + dy * step], this.keep)
        }, tag)
    }

    setPrompt(person, prompt) {
        const state = this.shown
        const changed = { ...state.people[person], prompt }
        this.edit(states.withPerson(state, person, changed), `prompt ${person}`)
    }

    /** The next person from left to right; false behind the last, so that Tab leaves the canvas. */
    nextPerson(step) {
        const order = states.leftToRight(this.shown)
        const now = order.indexOf(this.selected)
        const next = now < 0 ? (step > 0 ? 0 : order.length - 1) : now + step
        if (!(next in order)) return false
        this.select(order[next])
    }

    nextJoint(step) {
        if (!this.person) return
        const all = grabbable(this.person, true).filter((i) => partOf(i) !== "face")
        const now = all.indexOf(this.joint)
        const first = step > 0 ? 0 : all.length - 1
        const next = now < 0 ? first : (now + step + all.length) % all.length
        this.select(this.selected, all[next] ?? null)
    }

    // what comes with a run

    /** The connected pose as an OpenPose frame: shown at once while nobody was edited. */
    arrivedPose(frame) {
        this.given = this.complete(states.fromFrame(frame))
        if (this.history.state.untouched || !this.shown.people.length) this.takeGiven()
        this.render()
    }

    /** The people of the connected pose instead of those here; prompts stay with their numbers. */
    takeGiven() {
        if (!this.given?.people.length) return
        const taken = states.fitted(this.given, ...this.size())
        const prompts = states.leftToRight(this.shown).map((i) => this.shown.people[i].prompt)
        const people = [...taken.people]
        states.leftToRight(taken).forEach((i, number) => {
            people[i] = { ...people[i], prompt: people[i].prompt || (prompts[number] ?? "") }
        })
        this.selected = 0
        this.joint = null
        this.edit({ ...taken, people })
    }

    /** Who can be added: the people of the connected pose, then the library. */
    offers() {
        const given = this.given ?? { people: [] }
        const guests = states.leftToRight(given).map((i, number) => ({
            name: `connected ${number + 1}`, state: { ...given, people: [given.people[i]] },
        }))
        return [...guests, ...this.library]
    }
}
