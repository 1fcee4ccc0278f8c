/** True for types that are one and the same, not merely assignable to each other. */
export type Same<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false

/** `same<A, B>(true)` compiles only when they are. */
export function same<A, B>(_claim: Same<A, B>): void {}
