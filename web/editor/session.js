// What is being edited: the state, and who is chosen. Nothing here is drawn.

import { withPart, withoutPart } from "./extras.js"
import * as geometry from "./geometry.js"
import { limbOf } from "./hand_poses.js"
import { grabbable } from "./hits.js"
import { dragged } from "./limbs.js"
import { reposed, welcomed, withRoom } from "./newcomers.js"
import { remember, remembered } from "./remembered.js"
import { POINTS, indices, partOf } from "./skeleton.js"
import * as states from "./state.js"
import { say } from "./words.js"

const EVERYTHING = Array.from({ length: POINTS }, (_, i) => i)
// the people of an editor that was never used, as models/pose_editor.py says: with an empty text
// and with that of a new node
const [STANDING, PAIR] = ["standing", "standing side by side"]
/** Parts of a person that can be shown or left out. */
export const EXTRAS = { hands: ["leftHand", "rightHand"], feet: ["feet"], face: ["face"] }

export class Session {
    /**
     * size: () => [width, height] of the canvas; onEdit: called after every edit, with whether more
     * of the same is coming; render: called when something else is to be seen.
     */
    constructor({ size, onEdit, render }) {
        this.size = size
        this.onEdit = onEdit
        this.render = render
        this.text = "" // as saved; empty while nobody was edited
        this.state = { width: 512, height: 512, people: [], untouched: true } // it stands for ""
        this.draft = null // what a drag has made so far
        this.selected = null // place in the list of people
        this.joint = null
        this.limb = "rightHand" // whose pose is chosen
        this.keep = !remembered("freePoints", false) // lengths
        this.grid = remembered("grid", false) // whether it is shown
        this.snaps = remembered("snaps", false) // whether joints rest on others and on the grid
        this.hovered = null // who is pointed at, on the canvas or among the prompts
        this.library = [] // { name, state } each
        this.given = null // the state of the connected pose
        this.problem = null // what is wrong with the text
        this.notice = null // what the last edit did besides what is seen
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
        this.problem = this.notice = null
        try {
            state = states.parse(this.text)
        } catch (error) {
            this.problem = error.message
        }
        const isPosed = state && !state.untouched
        this.state = isPosed ? this.complete(state) : this.untouched(state ? PAIR : STANDING)
        this.selected = this.state.people.length ? 0 : null
        this.render()
    }

    /** What an editor shows in which nobody has posed anybody: these people of the library. */
    untouched(name) {
        const [width, height] = this.size()
        const shown = this.library.find((entry) => entry.name === name)?.state
        return { ...(shown ?? { width, height, people: [] }), untouched: true }
    }

    /** Points without a place get one, so that they can be shown. */
    complete(state) {
        const model = this.library[0]?.state.people[0]
        if (!model) return state
        return { ...state, people: state.people.map((p) => geometry.completed(p, model)) }
    }

    /** The library: OpenPose frames with names, the standing person first. */
    setLibrary(frames) {
        this.library = frames.map((frame) =>
            ({ name: frame.name, group: frame.group, state: states.fromFrame(frame) }))
        if (this.state.untouched) this.load()
        else this.state = this.complete(this.state)
    }

    // editing

    /** What is shown: on the canvas of the node's width and height. */
    get shown() {
        return this.draft ?? states.fitted(this.state, ...this.size())
    }

    get person() {
        return this.shown.people[this.selected]
    }

    /** The points that the box holds: the face alone while a point of it is chosen. */
    get target() {
        return this.joint !== null && partOf(this.joint) === "face" ? indices("face") : EVERYTHING
    }

    /** Takes over a new state. goesOn: more of the same edit is coming, as letters of a prompt. */
    edit(state, goesOn = false) {
        this.state = { ...state, untouched: false }
        this.draft = this.problem = this.notice = null
        this.text = states.serialize(state)
        if (!state.people[this.selected]) this.select(state.people.length ? 0 : null)
        this.render()
        this.onEdit(goesOn)
    }

    /** edit, of the selected person. */
    editPerson(change, goesOn = false) {
        if (!this.person) return
        this.edit(states.withPerson(this.shown, this.selected, change(this.person)), goesOn)
    }

    /** Shows the selected person changed, as one edit that ends with keepPreview. */
    preview(change) {
        const state = states.fitted(this.state, ...this.size())
        const person = state.people[this.selected]
        if (!person) return
        this.draft = states.withPerson(state, this.selected, change(person))
        this.render()
    }

    keepPreview() {
        if (this.draft) this.edit(this.draft)
    }

    select(person, joint = null) {
        if (person !== this.selected) this.notice = null
        this.selected = person
        this.joint = joint
        this.limb = limbOf(joint) ?? this.limb
        this.render()
    }

    setKeep(keep) {
        this.keep = keep
        remember("freePoints", !keep)
        this.render()
    }

    switchGrid() {
        remember("grid", (this.grid = !this.grid))
        this.render()
    }

    switchSnaps() {
        remember("snaps", (this.snaps = !this.snaps))
        this.render()
    }

    hover(person) {
        if (person === this.hovered) return
        this.hovered = person
        this.render()
    }

    /**
     * The people of `source` beside the others; says so if others are numbered anew. Several take
     * the place of people whom nobody has posed.
     */
    add(source) {
        const { untouched } = this.state
        const isGroup = source.people.length > 1
        const before = !untouched ? this.shown
            : isGroup ? { ...this.shown, people: [] } : withRoom(this.shown)
        const state = { ...before, people: [...before.people, ...welcomed(before, source)] }
        const first = before.people.length
        this.selected = first
        this.joint = null
        this.edit(state)
        const number = states.leftToRight(state).indexOf(first) + 1
        if (number <= first)
            this.notice = say("person <n> is new: those right of them moved up", { n: number })
    }

    /** Another pose for the selected person, who keeps place and prompt. */
    repose(source) {
        this.joint = null
        this.edit(reposed(this.shown, this.selected, source))
    }

    /** People from outside, as a file has them: beside those here, or in the place of nobody's. */
    receive(source) {
        if (!source.people.length) throw new Error(say("there is nobody in it"))
        const completed = this.complete(source)
        if (!this.state.untouched && this.state.people.length) return this.add(completed)
        this.selected = 0
        this.joint = null
        this.edit(states.fitted(completed, ...this.size()))
    }

    duplicate() {
        if (this.person) this.add({ ...this.shown, people: [this.person] })
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
        const change = wanted ? withPart : withoutPart
        if (this.joint !== null && EXTRAS[name].includes(partOf(this.joint))) this.joint = null
        this.editPerson((person) => EXTRAS[name].reduce(change, person))
    }

    nudge([dx, dy], far, goesOn) {
        if (!this.person) return
        const step = far ? 10 : 1
        this.editPerson((person) => {
            if (this.joint === null) return geometry.shifted(person, dx * step, dy * step)
            const [x, y] = person.points[this.joint]
            return dragged(person, this.joint, [x + dx * step, y + dy * step], { keep: this.keep })
        }, goesOn)
    }

    setPrompt(person, prompt) {
        const state = this.shown
        const changed = { ...state.people[person], prompt }
        this.edit(states.withPerson(state, person, changed), true)
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
        if (!this.draft && (this.state.untouched || !this.shown.people.length)) this.takeGiven()
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
            name: say("connected <n>", { n: number + 1 }), group: "connected",
            state: { ...given, people: [given.people[i]] },
        }))
        return [...guests, ...this.library]
    }
}
