/**
 * Overrides members of one object, reversibly. The object's class and other instances are not changed.
 *
 * If another library (for tracing, say) has overridden ours by the time of `remove()`, its function stays and ours passes every call
 * through: removing ours would remove the other one too.
 */
export class Overlay {
  readonly #target: object
  readonly #undo: (() => void)[] = []
  #removed = false

  constructor(target: object) {
    this.#target = target
  }

  /** @param below the original member, bound to its object */
  method<A extends unknown[], R>(
    name: PropertyKey,
    below: (...args: A) => R,
    layer: (...args: A) => R,
  ): void {
    const value = (...args: A): R => (this.#removed ? below(...args) : layer(...args))
    this.#lay(name, { value, writable: true, configurable: true, enumerable: false })
  }

  getter<R>(name: PropertyKey, below: () => R, layer: () => R): void {
    const get = (): R => (this.#removed ? below() : layer())
    this.#lay(name, { get, configurable: true, enumerable: false })
  }

  remove(): void {
    this.#removed = true
    for (const undo of this.#undo.splice(0)) undo()
  }

  #lay(name: PropertyKey, layer: PropertyDescriptor): void {
    const target = this.#target
    const own = Object.getOwnPropertyDescriptor(target, name)
    Object.defineProperty(target, name, layer)
    this.#undo.push(() => {
      const present = Object.getOwnPropertyDescriptor(target, name)
      if (present?.value !== layer.value || present?.get !== layer.get) return
      if (own) Object.defineProperty(target, name, own)
      else Reflect.deleteProperty(target, name)
    })
  }
}
