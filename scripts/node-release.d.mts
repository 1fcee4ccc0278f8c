export declare function installedNode(line: string): { readonly version: string; readonly bin: string }
