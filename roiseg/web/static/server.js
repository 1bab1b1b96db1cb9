// Requests to the server. A failure throws an Error with a message for the user.

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: is it still running?");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error ?? `The server answered ${response.status} ${response.statusText}`);
}

function post(path, content) {
  return ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
}

export const models = async () => (await ask("models")).json();
export const open = async (file) => (await ask("images", { method: "POST", body: file })).json();
export const detect = async (query) => (await post("detections", query)).json();
export const predict = async (query) => (await post("predictions", query)).json();
export const mask = async (query) => (await post("masks", query)).blob();

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
