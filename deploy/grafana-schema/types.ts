// A dashboard as Grafana's own types have it, with enumerations by their words, as they stand in JSON.
import type { Dashboard } from '@grafana/schema';

type Plain<T> = T extends string
  ? `${T}`
  : T extends readonly (infer U)[]
    ? Plain<U>[]
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;

export type PlainDashboard = Plain<Dashboard>;
