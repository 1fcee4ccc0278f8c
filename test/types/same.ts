/** True for identical types, not merely mutually assignable ones. */
// TypeScript compares two deferred conditional types by the types that they depend on.
/* oxlint-disable typescript/no-unnecessary-type-parameters */
export type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false

/** `same<A, B>(true)` compiles only if the types are identical. */
export function same<A, B>(_claim: Same<A, B>): void {}
