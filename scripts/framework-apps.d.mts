export declare const FRAMEWORK_APPS: readonly string[]
export declare const FRAMEWORK_NODE: string
export declare const FRAMEWORK_ENV: Readonly<Record<string, string>>
export declare function builtApp(name: string): string
