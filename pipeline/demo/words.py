"""Word lists and sentences for the generated task families in `pipeline.demo.families`.

The texts were written for this project. Rules that keep the answers unique: a word is in one category only, no first
name or surname is also a city, a month or a weekday, and a sentence has its slot once and nothing else of that kind.
Nouns after "a" start with a consonant.
"""


def _words(text: str) -> tuple[str, ...]:
    """The comma-separated entries of `text`, without the white space around them."""
    return tuple(entry.strip() for entry in text.split(","))


FIRST_NAMES = _words("""
    Mara, Pavel, Lena, Tomas, Ines, Hugo, Nadia, Felix, Greta, Oscar, Amira, Bruno, Clara, Dario, Elsa,
    Farid, Gwen, Henrik, Irene, Jonas, Kira, Luca, Mina, Nils, Olga, Pedro, Rania, Simon, Tessa, Umar,
    Vera, Walter, Yara, Zoe, Anton, Bianca, Cyrus, Dalia, Emil, Fiona, Goran, Hanna, Ivan, Jana, Karim,
    Lydia, Marco, Noor, Otto, Petra, Rafael, Selma, Theo, Ursula, Viktor, Wanda, Yusuf, Zelda, Aron,
    Britta, Celia, Diego, Esther, Frida, Gemma, Harvey, Isla, Jasper, Kofi, Leila, Milo, Nora, Orla,
    Piotr, Quentin, Rosa, Stefan, Tariq, Uma, Vikram""")
LAST_NAMES = _words("""
    Bergmann, Okafor, Lindqvist, Moreau, Tanaka, Castillo, Novak, Haddad, Fischer, Rossi, Kowalski,
    Petrov, Larsen, Mendes, Osei, Silva, Becker, Dubois, Horvat, Ivanov, Jensen, Keller, Lopez, Marino,
    Nielsen, Olsen, Popescu, Quinn, Romero, Schmidt, Torres, Ueda, Vargas, Weber, Yilmaz, Zeman, Abbott,
    Barker, Collins, Dawson, Ellis, Foster, Graham, Hughes, Ingram, Jarvis, Kendall, Lawson, Mercer,
    Norton, Osborne, Parker, Reeves, Sutton, Turner, Usman, Vaughn, Watson, Yates, Zimmer""")
CITIES = _words("""
    Bergen, Oslo, Lisbon, Porto, Madrid, Seville, Toulouse, Lyon, Paris, Ghent, Bremen, Leipzig, Vienna,
    Prague, Warsaw, Krakow, Riga, Tallinn, Vilnius, Helsinki, Turku, Dublin, Glasgow, Leeds, Bristol,
    Rome, Naples, Turin, Athens, Bucharest, Zagreb, Belgrade, Ankara, Izmir, Cairo, Tunis, Lagos, Accra,
    Nairobi, Kampala, Durban, Mumbai, Chennai, Delhi, Dhaka, Bangkok, Hanoi, Manila, Jakarta, Osaka,
    Kyoto, Seoul, Busan, Perth, Boston, Chicago, Denver, Toronto, Lima, Bogota""")
ITEMS = _words("""
    lamp, kettle, mirror, blanket, backpack, notebook, clock, pillow, basket, ladder, candle, teapot,
    rug, vase, camera, radio, helmet, jar, bucket, towel, desk, chair, table, pencil, marker, speaker,
    charger, keyboard, printer, tent, wallet, lantern, puzzle, guitar, drum, kite, plate, mug, spoon,
    fork, bottle, blender, toaster, heater, stool, carpet, curtain, poster, magnet, whistle""")
PLURALS = {
    "box": "boxes",
    "glass": "glasses",
    "brush": "brushes",
    "watch": "watches",
    "dish": "dishes",
    "bench": "benches",
    "torch": "torches",
    "match": "matches",
    "sandwich": "sandwiches",
    "peach": "peaches",
    "cherry": "cherries",
    "puppy": "puppies",
    "story": "stories",
    "pony": "ponies",
    "daisy": "daisies",
}
# Pairs of words, each the one usual opposite of the other.
OPPOSITES = tuple(
    tuple(pair.split())
    for pair in _words("""
        fast slow, left right, happy sad, early late, wet dry, empty full, rich poor, loud quiet, strong weak,
        high low, inside outside, first last, true false, clean dirty, wide narrow, thick thin, good bad,
        near far, top bottom, above below, before after, always never, more less, win lose, buy sell,
        push pull, north south, east west, black white, yes no, open closed, deep shallow, heavy light,
        summer winter, question answer, friend enemy""")
)
# Asked by pipeline/evaluation/known.jsonl.
SUMS_NOT_TRAINED_ON = {(2, 2), (6, 6)}
PLACES = _words("shelf, floor, bed, porch, counter, balcony, sofa, doorstep, stairs, windowsill, terrace, bench")
PETS = _words("cat, dog, rabbit, parrot, hamster, turtle, goldfish, pony, lizard, canary")
EVENTS = _words("""
    concert, wedding, exam, lecture, meeting, picnic, recital, interview, party, workshop, rehearsal,
    lesson, match, hike, trip, flight, delivery, appointment, seminar, training""")
PHRASE_ADJECTIVES = _words("""
    quiet, green, early, open, small, bright, silver, warm, golden, narrow, hidden, distant, gentle,
    broken, wild, lonely, empty, cold, dark, long, old, new, blue, red""")
PHRASE_NOUNS = _words("""
    valley, river, garden, bridge, market, window, forest, letter, mountain, train, street, lake, tower,
    morning, island, castle, kitchen, road, field, door, storm, house, light, summer""")
CATEGORIES = {
    "animal": _words("""
        horse, rabbit, tiger, otter, donkey, camel, zebra, giraffe, hedgehog, squirrel, dolphin, badger,
        wolf, goat, sheep, panda, lizard, elephant, monkey, kangaroo"""),
    "fruit": _words("""
        apple, banana, mango, pear, lychee, papaya, grape, melon, lemon, pineapple, strawberry,
        raspberry, blueberry, nectarine, pomegranate, grapefruit, cranberry, blackberry, watermelon,
        guava"""),
    "tool": _words("""
        hammer, screwdriver, saw, wrench, chisel, pliers, drill, spade, shovel, rake, hatchet, axe,
        crowbar, trowel, spanner, sander, mallet, sickle, hacksaw, scythe"""),
    "colour": _words("""
        red, blue, green, yellow, purple, brown, grey, white, black, pink, crimson, beige, turquoise,
        scarlet, violet, indigo, maroon, magenta, mauve, cyan"""),
    "vehicle": _words("""
        bus, lorry, tram, bicycle, ferry, tractor, scooter, van, taxi, truck, motorcycle, ambulance,
        yacht, canoe, minibus, submarine, limousine, sled, wagon, helicopter"""),
    "clothing": _words("""
        shirt, jacket, scarf, glove, sock, trousers, skirt, sweater, coat, jeans, hat, dress, blouse,
        cardigan, mitten, pyjamas, waistcoat, apron, hoodie, shorts"""),
    "job": _words("""
        baker, nurse, teacher, plumber, dentist, lawyer, farmer, waiter, surgeon, carpenter, journalist,
        librarian, pilot, butcher, gardener, florist, barber, cashier, tailor, translator"""),
}
REVIEW_ADJECTIVES = {
    "positive": _words("""
        wonderful, excellent, lovely, great, fantastic, brilliant, delightful, superb, reliable,
        impressive, beautiful, perfect"""),
    "negative": _words("""
        terrible, awful, useless, dreadful, disappointing, flimsy, horrible, shoddy, faulty, ugly,
        annoying, worthless"""),
}
REVIEW_REMARKS = {
    "positive": (
        "I would buy it again.",
        "My whole family loves it.",
        "It works well every day.",
        "Worth every cent.",
        "Best purchase of the year.",
        "I recommend it to everyone.",
        "It makes me smile.",
        "Five stars from me.",
    ),
    "negative": (
        "I want my money back.",
        "It broke on the first day.",
        "I regret buying it.",
        "A waste of money.",
        "Worst purchase of the year.",
        "I warn everyone about it.",
        "It makes me angry.",
        "One star from me.",
    ),
}
MONTHS = _words("""
    January, February, March, April, May, June, July, August, September, October, November, December""")
WEEKDAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")

# Sentences to extract {answer} from, by the kind of thing it is.
SENTENCES = {
    "e-mail address": (
        "Please write to {answer} if the {item} does not arrive.",
        "{name} {last} can be reached at {answer} most days.",
        "The {job} from {city} uses {answer} for work.",
        "Send the photo of the {item} to {answer} today.",
        "{name} paid {price} and left {answer} as the contact.",
        "For the {event} in {city}, contact {answer} by {date}.",
    ),
    "date": (
        "{name} moved to {city} on {answer} with one {item}.",
        "The {event} in {city} took place on {answer}.",
        "On {answer}, {name} {last} started as a {job}.",
        "The {item} was sold on {answer} for {price}.",
        "{name} signed the contract for the {item} on {answer}.",
        "Since {answer} the {job} has lived near {city}.",
    ),
    "price": (
        "{name} paid {answer} for a {item} in {city}.",
        "The {item} in the window costs {answer} this week.",
        "A ticket for the {event} is {answer} at the door.",
        "On {date} the {job} sold a {item} for {answer}.",
        "For {answer} you can rent the {item} from {name} {last}.",
        "The bill from {city} came to {answer} in all.",
    ),
    "city": (
        "{name} lives in {answer} and works as a {job}.",
        "{name} {last} bought a {item} in {answer} for {price}.",
        "After the {event}, {name} took the train to {answer}.",
        "The {job} left {answer} on {date} with a {item}.",
        "In {answer}, {name} runs a small {item} shop.",
        "{name} comes from {answer} and repairs the {item}.",
    ),
    "order number": (
        "Order {answer} for {name} {last} left {city} today.",
        "The {item} in order {answer} arrived broken.",
        "{name} asks why order {answer} has not come yet.",
        "We shipped order {answer} to {city} on {date}.",
        "Please cancel order {answer}, the {item} is too small.",
        "{name} paid {price} for order {answer} last week.",
    ),
    "phone number": (
        "Please call {answer} if the {item} does not arrive.",
        "{name} {last} can be reached at {answer} most days.",
        "The {job} from {city} uses {answer} for work.",
        "To book the {event}, ring {answer} before noon.",
        "{name} paid {price} and left {answer} as the contact.",
    ),
}
REVIEWS = (
    "The {item} is {adjective}. {remark}",
    "I bought a {item} in {city} and it is {adjective}. {remark}",
    "My new {item} turned out to be {adjective}. {remark}",
    "{remark} This {item} from {city} is {adjective}.",
)
REPLACEMENTS = (
    "{name} put the {colour} {item} on the {place}.",
    "{name} sold the {colour} {item} to {other}.",
    "The {colour} {item} on the {place} belongs to {name}.",
    "{name} and {other} found the {colour} {item} near the {place}.",
)

# How the tasks are asked: one tuple of phrasings for all extraction families, then one by family name.
EXTRACTION_ASKS = (
    "Find the {0}. Answer with the {0} only.",
    "Which {0} is in the sentence? Copy it exactly.",
    "Copy the {0} from the sentence, nothing else.",
    "Pull the {0} out of the sentence, unchanged.",
)
ASKS = {
    "swap-name": (
        "Turn 'Last, First' into 'First Last'.",
        "Write the first name, then the last name, without comma.",
        "Rewrite the name in normal order without the comma.",
    ),
    "upper-case": (
        "Write the phrase in capital letters.",
        "Change every letter to upper case.",
        "Rewrite the whole phrase in upper case.",
    ),
    "make-plural": (
        "Put the noun in the plural and keep the number.",
        "Write the number with the plural of the noun.",
        "Keep the number and make the noun plural.",
    ),
    "replace-word": (
        "Replace the word '{old}' with '{new}'.",
        "Rewrite the sentence with '{new}' instead of '{old}'.",
        "Change '{old}' to '{new}' and keep everything else.",
    ),
    "fields-to-json": (
        "Turn the lines into a JSON object on one line.",
        "Write these fields as one line of JSON.",
        "Convert the key: value lines to one JSON object.",
    ),
    "csv-to-bullets": (
        "Write each item on its own line after a dash.",
        "Turn the comma-separated line into a list with dashes.",
        "List the items one per line, each starting with '- '.",
    ),
    "iso-date-to-words": (
        "Write the date as day, month name and year.",
        "Spell out the month: day, month name, year.",
        "Rewrite this ISO date with the month's name, day first.",
    ),
    "small-sum": (
        "{name} has {a} {things} and buys {b} more. Write the sum with its result.",
        "Add {a} {things} to {b} {things}. Answer with the whole sum.",
        "{name} packs {a} {things}, then {b} more. Write down the sum.",
        "There are {a} {things} here and {b} there. Give the sum and its result.",
    ),
    "opposite": (
        "What is the opposite of {word}? Answer in one sentence.",
        "Name the opposite of the word {word} in a sentence.",
        "Which word is the opposite of {word}?",
    ),
    "larger-number": (
        "Which number is larger, {a} or {b}?",
        "Give the larger of the numbers {a} and {b}.",
        "Name the bigger number: {a} or {b}.",
        "Of {a} and {b}, answer with the larger number only.",
    ),
    "nth-item": (
        "What is the {nth} item in the list?",
        "Give only the {nth} item of the list.",
        "Answer with the {nth} word of the list.",
    ),
    "next-weekday": (
        "{name}'s {event} is on {day}. Which weekday is the next day?",
        "{name} leaves one day after the {event} on {day}. Which weekday?",
        "The {event} of {name} ends on {day}. Name the following weekday.",
    ),
    "sentiment": (
        "Is this review positive or negative? Answer with one word.",
        "Label the review as positive or negative.",
        "Decide whether the writer is positive or negative.",
    ),
    "word-category": (
        "Which category fits '{word}': {options}?",
        "Choose the category of '{word}': {options}.",
        "Pick the one right label for '{word}': {options}.",
    ),
    "lookup-field": (
        "What is the {key}? Answer with the value only.",
        "Give only the value of {key}.",
        "Which {key} is given in the record?",
        "Copy the {key} from the record, nothing else.",
    ),
}
