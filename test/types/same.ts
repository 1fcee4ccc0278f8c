/** True for types that are one and the same, not merely assignable to each other. */
// Whether two conditional types that are put off are the same is asked of the types that they depend on.
/* oxlint-disable typescript/no-unnecessary-type-parameters */
export type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false

/** `same<A, B>(true)` compiles only when they are. */
export function same<A, B>(_claim: Same<A, B>): void {}
